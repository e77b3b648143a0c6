"""UniMP: a decoder that reads interleaved pictures, text and item codes."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    initialization,
)
from transformers.cache_utils import Cache
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple

from .attention_unimp import (
    UniMPGatedCrossAttention,
    UniMPKeyValues,
    UniMPPerceiverResampler,
    VisualContext,
    attach_cross_attention,
    decoder_layers,
    ignores_pictures,
    visibility,
)
from .card_unimp import complete_card
from .codes_unimp import UniMPItemCodes, UniMPPictureStatistics
from .configuration_unimp import MARKERS, UniMPConfig, check_keys
from .decoding_unimp import ItemDecodingMixin
from .heads_unimp import HeadsMixin
from .items_unimp import CatalogRowsMixin, UniMPItemContent, UniMPItemRows
from .outputs_unimp import UniMPCausalLMOutput, UniMPModelOutput, UniMPPrefill
from .prompts_unimp import UniMPVisualPrompt, picture_tokens
from .queries_unimp import UniMPQueryWeight, check_item_scores
from .sessions_unimp import SessionMixin
from .similarity_unimp import history_directions, tokens_so_far

# Backbones scale their logits by these; a model that did not would silently answer differently.
LOGIT_SCALES = ("logits_scaling", "logit_scale", "output_multiplier", "lm_head_multiplier")


class UniMPPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading; see [`UniMPForConditionalGeneration`]."""

    config: UniMPConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True

    def _upload_modified_files(self, working_dir: str | Path, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # What `push_to_hub` sends: with a card that says what the model is, unless the repository has one already.
        complete_card(Path(working_dir, "README.md"), self, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, UniMPGatedCrossAttention):
            initialization.zeros_(module.attention_gate)
            initialization.zeros_(module.feed_forward_gate)
        elif isinstance(module, UniMPQueryWeight):
            initialization.zeros_(module.log_scale)
        elif isinstance(module, UniMPPerceiverResampler):
            initialization.normal_(module.latents, std=1.0)
        elif isinstance(module, UniMPItemRows):
            initialization.normal_(module.learned, std=std)
            if module.bias is not None:
                initialization.zeros_(module.bias)
        if isinstance(module, UniMPPictureStatistics):
            initialization.zeros_(module.image_mean)
            initialization.ones_(module.image_scale)
        if isinstance(module, UniMPItemContent):
            initialization.constant_(module.text_ids, -1)
            initialization.zeros_(module.image_embeddings)
            initialization.zeros_(module.features)
            initialization.zeros_(module.feature_mean)
        elif isinstance(module, UniMPItemCodes):
            initialization.copy_(module.codes, module.first_codes(self.config))
            initialization.zeros_(module.centroids)
            initialization.zeros_(module.token_vectors)
            initialization.zeros_(module.kept_variance)


class UniMPModel(UniMPPreTrainedModel):
    """
    Vision encoder, perceiver resampler and gated cross-attention (UniMP, section "Network") or a visual prompt (VIP5),
    and decoder, without a head.

    The decoder is an unmodified Hugging Face model. The vision encoder is frozen, as in the paper: it always runs in
    evaluation mode and without gradients, so that its features may be computed once and given as `image_features`.
    """

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__(config)
        self.vision_encoder = AutoModel.from_config(config.vision_config).eval()
        self.language_model = AutoModel.from_config(config.text_config)
        # Some swallow keyword arguments instead: `forward` notices those.
        if "kwargs" not in inspect.signature(self.language_model.forward).parameters:
            raise ValueError(ignores_pictures(config.text_config))
        layers = decoder_layers(self.language_model, config.text_config)
        num_blocks = attach_cross_attention(layers, config.cross_attention_every)
        self.resampler = UniMPPerceiverResampler(config) if num_blocks else None
        heads, head_dim = config.cross_attention_heads, config.cross_attention_head_dim
        self.cross_attention = nn.ModuleList(UniMPGatedCrossAttention(config) for _ in range(num_blocks))
        self.key_values = nn.ModuleList(UniMPKeyValues(config, heads, head_dim) for _ in range(num_blocks))
        if num_blocks:  # sharding refuses to begin where a class that is named here has no module
            self._no_split_modules = ["UniMPGatedCrossAttention", "UniMPPerceiverResampler"]
        row_size = self.get_input_embeddings().embedding_dim
        self.visual_prompt = UniMPVisualPrompt(config, row_size) if config.visual_prompt_tokens else None
        self.embedding_scale = config.item_embedding_scale or row_size**0.5
        self.markers = nn.Embedding(len(MARKERS), row_size)
        self.behaviors = nn.Embedding(config.num_behaviors, row_size, padding_idx=0)
        self.item_content = UniMPItemContent(config) if config.code_sizes is None else None
        self.item_codes = None if config.code_sizes is None else UniMPItemCodes(config, row_size)
        self.item_rows = UniMPItemRows(config, row_size, is_output=config.tie_item_embeddings)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The decoder's own (text) embeddings."""
        return self.language_model.get_input_embeddings()

    @property
    def picture_reader(self) -> UniMPPerceiverResampler | UniMPVisualPrompt | None:
        """What makes latents of a picture's features; `None` for a model that looks at no pictures."""
        return self.visual_prompt if self.resampler is None else self.resampler

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the decoder's (text) embeddings."""
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "UniMPModel":
        """Training mode for everything but the frozen vision encoder."""
        super().train(mode)
        self.vision_encoder.eval()
        return self

    @torch.no_grad()
    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`[pictures, channels, height, width]` to features, `[pictures, positions, vision_hidden_size]`."""
        features = self.vision_encoder(pixel_values=pixel_values.to(self.vision_encoder.dtype)).last_hidden_state
        if features.ndim == 4:  # a convolutional map
            features = nn.functional.adaptive_avg_pool2d(features, self.config.feature_grid).flatten(2).transpose(1, 2)
        return features

    def _embed(
        self,
        input_ids: torch.Tensor,
        item_rows: torch.Tensor,
        behavior_ids: torch.Tensor | None,
        pictures: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        Text tokens through the decoder's embeddings; markers, items and behaviours through our own rows, which what
        an `<image>` token shows (`pictures`, `[batch, tokens, row_size]`) is added to.
        """
        text_vocab_size = self.config.text_config.vocab_size
        text = self.get_input_embeddings()(input_ids.clamp(max=text_vocab_size - 1))
        # Two look-ups, as one into both tables together would copy a whole catalogue for every token read.
        own = self.markers((input_ids - text_vocab_size).clamp(0, len(MARKERS) - 1))
        if len(item_rows):
            first = self.config.first_item_id
            items = nn.functional.embedding((input_ids - first).clamp(min=0), item_rows)
            own = torch.where((input_ids < first)[..., None], own, items)
        if behavior_ids is not None:
            own = own + self.behaviors(behavior_ids).sum(-2)
        if pictures is not None:
            own = own + pictures
        return torch.where((input_ids < text_vocab_size)[..., None], text, (own * self.embedding_scale).to(text.dtype))

    def _new_item_rows(
        self, text_ids: torch.Tensor, image_index: torch.Tensor | None, image_features: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Rows of the tokens of items outside the catalogue, `[new items * code_levels, row_size]`: their content alone,
        or those of the semantic codes that they would get, were they the first of their kind.
        """
        known_by = self.item_content if self.item_codes is None else self.item_codes
        images = known_by.image_mean.new_zeros(len(text_ids), self.config.vision_hidden_size)
        if image_features is not None and image_index is not None:
            pooled = image_features.mean(1)[image_index.clamp(min=0)]
            images = torch.where((image_index >= 0)[:, None], pooled.to(images), images)
        features = images.new_zeros(len(text_ids), self.config.item_feature_size)
        if self.item_codes is not None:
            codes = self.item_codes.nearest(self.item_codes.code_embeddings(text_ids, images, features))
            codes = nn.functional.pad(codes, (0, 1)) + codes.new_tensor(self.config.level_starts)
            return self.item_rows.learned[codes.flatten()]
        encoded = self.item_content.encode(self.get_input_embeddings(), text_ids, images, features)
        return self.item_rows.projection(encoded)

    def _visual_context(self, text_time: torch.Tensor, prefill: UniMPPrefill) -> VisualContext | None:
        if prefill.picture_states is None or not self.cross_attention:
            return None
        index = prefill.image_index
        mask = visibility(text_time, index.shape[1], self.config.visual_scope) & (index >= 0)[:, None]
        mask = mask.repeat_interleave(self.config.num_latents, dim=-1)[:, None]
        return VisualContext(self.cross_attention, prefill.picture_states, index, mask)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_latents: torch.Tensor | None = None,
        image_index: torch.LongTensor | None = None,
        behavior_ids: torch.LongTensor | None = None,
        new_item_text_ids: torch.LongTensor | None = None,
        new_item_image_index: torch.LongTensor | None = None,
        item_rows: tuple[torch.Tensor, torch.Tensor] | None = None,
        prefill: UniMPPrefill | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> UniMPModelOutput:
        """
        See [`UniMPForConditionalGeneration.forward`]; `item_rows` are the rows its head also uses. Where those have
        the items' directions beside them, `last_hidden_state` has what the history is like.
        """
        if prefill is None:
            rows = item_rows if item_rows is not None else (self.item_rows(self._content()),) * 2
            if pixel_values is not None:
                encoded = self.get_image_features(pixel_values)
                image_features = encoded if image_features is None else torch.cat([image_features, encoded])
            prefill = self._read_pictures(input_ids, image_features, image_index, rows, image_latents)
        input_rows = prefill.item_rows[0]
        if new_item_text_ids is not None:
            if new_item_image_index is not None and image_latents is not None:
                new_item_image_index = new_item_image_index - len(image_latents)
            new_rows = self._new_item_rows(new_item_text_ids, new_item_image_index, image_features)
            input_rows = torch.cat([input_rows, new_rows])
        is_image = input_ids == self.config.image_token_id
        text_time = prefill.image_count[:, None] + is_image.cumsum(-1)
        pictures = None
        if self.visual_prompt is not None and prefill.picture_states is not None:
            pictures = picture_tokens(prefill.picture_states[0][0], prefill.image_index, is_image, text_time)
        hidden_states = self._embed(input_ids, input_rows, behavior_ids, pictures)
        visual_context = self._visual_context(text_time, prefill)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        outputs = self.language_model(
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            visual_context=visual_context,
            use_cache=use_cache,
            **kwargs,
        )
        if visual_context is not None and len(set(visual_context.used)) < len(self.cross_attention):
            raise ValueError(ignores_pictures(self.config.text_config))
        cache = outputs.past_key_values
        return UniMPModelOutput(
            last_hidden_state=self._beside_likeness(outputs.last_hidden_state, input_ids, prefill, cache),
            past_key_values=cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            prefill=replace(prefill, image_count=text_time[:, -1]),
        )

    def _beside_likeness(
        self, hidden_states: torch.Tensor, input_ids: torch.Tensor, prefill: UniMPPrefill, cache: Cache | None
    ) -> torch.Tensor:
        """Hidden states with what the history is like beside them, where the output rows have directions."""
        directions = prefill.item_rows[1][:, hidden_states.shape[-1] :].detach()
        if not directions.shape[1]:
            return hidden_states
        codes = tokens_so_far(input_ids, cache) - self.config.first_item_id
        likeness = history_directions(codes, directions, input_ids.shape[1])
        return torch.cat([hidden_states, self.config.feature_similarity * likeness.to(hidden_states)], dim=-1)

    def _content(self) -> torch.Tensor | None:
        return None if self.item_content is None else self.item_content(self.get_input_embeddings())

    def _read_pictures(
        self,
        input_ids: torch.Tensor,
        image_features: torch.Tensor | None,
        image_index: torch.Tensor | None,
        item_rows: tuple[torch.Tensor, torch.Tensor],
        image_latents: torch.Tensor | None = None,
    ) -> UniMPPrefill:
        """Read the batch's distinct pictures, once: to every block's keys and values, or to tokens."""
        image_count = torch.zeros_like(input_ids[:, 0])
        reader = self.picture_reader
        if reader is None:
            return UniMPPrefill(item_rows, None, None, image_count)
        weight = reader.input_projection.weight
        no_pictures = image_features is None and image_latents is None
        if no_pictures and self.training and torch.distributed.is_initialized():
            # Processes that train together must run the same modules: show a picture that no token sees.
            image_features = torch.zeros(1, 1, self.config.vision_hidden_size, device=input_ids.device)
            image_index = image_count.new_full((len(input_ids), 1), -1)
        elif no_pictures:
            return UniMPPrefill(item_rows, None, None, image_count)
        number = self.config.visual_prompt_tokens or self.config.num_latents
        if image_latents is not None and image_latents.shape[1] != number:
            raise ValueError(f"`image_latents` must be {number} a picture, got {image_latents.shape[1]}.")
        latents = [] if image_latents is None else [image_latents.to(weight.dtype)]
        if image_features is not None:
            latents.append(reader(image_features.to(weight.dtype)))
        latents = torch.cat(latents)
        if image_index is None:
            image_index = self.pictures_in_order(input_ids, len(latents))
        if image_index.shape[1] == 0:  # the pictures belong to new items alone
            image_index = nn.functional.pad(image_index, (0, 1), value=-1)
        states = [key_value(latents) for key_value in self.key_values] or [(latents,)]
        return UniMPPrefill(item_rows, states, image_index, image_count)

    def pictures_in_order(self, input_ids: torch.Tensor, num_pictures: int) -> torch.Tensor:
        """
        `image_index` where none is given: the n-th `<image>` of the batch, row by row, is the n-th picture; where a
        picture is several of them, the n-th so many.
        """
        is_image, each = input_ids == self.config.image_token_id, self.config.tokens_per_image
        if int(is_image.sum()) != num_pictures * each:
            raise ValueError(
                f"`image_index` is needed to tell which of {num_pictures} pictures the batch's {int(is_image.sum())} "
                f"<image> tokens show ({each} a picture)."
            )
        number = (is_image.flatten().cumsum(0).view_as(input_ids) - 1) // each
        index = number.new_full((len(input_ids), int(is_image.sum(-1).max())), -1)
        for row, numbers, image in zip(index, number, is_image, strict=True):
            row[: int(image.sum())] = numbers[image]
        return index


class UniMPForConditionalGeneration(
    ItemDecodingMixin, SessionMixin, HeadsMixin, CatalogRowsMixin, UniMPPreTrainedModel, GenerationMixin
):
    """
    UniMP with its two heads: text tokens and item codes (UniMP, section "Network").

    Whether the next token is a text token or an item code is settled by the token before it (an item code, the end of
    a chunk and the `<|item|>` marker are followed by an item; anything else by text), and each kind is normalised over
    itself. The paper normalises both over one vocabulary; apart, text is exactly the backbone's distribution, an item
    answer is always an item of the catalogue, and training an item never pays for a large text vocabulary.
    """

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__(config)
        for name in LOGIT_SCALES:
            if getattr(config.text_config, name, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"`text_config` of type {config.text_config.model_type!r} scales its logits (`{name}`), which "
                    "UniMP does not reproduce: choose another decoder."
                )
        self.model = UniMPModel(config)
        embeddings = self.model.get_input_embeddings()
        self.row_size = row_size = embeddings.embedding_dim
        self.lm_head = nn.Linear(row_size, config.text_config.vocab_size, bias=False)
        self.item_head = None if config.tie_item_embeddings else UniMPItemRows(config, row_size, is_output=True)
        # A pretrained decoder's last states can be large and lopsided: fit for its own head, not for new rows.
        self.item_norm = nn.LayerNorm(row_size)
        self.query_weight = UniMPQueryWeight() if config.code_sizes is None else None
        source = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{source}.weight"}
        self.post_init()

    @classmethod
    def from_backbones(
        cls, vision: str | PreTrainedModel, text: str | PreTrainedModel, **config_kwargs: Any
    ) -> "UniMPForConditionalGeneration":
        """
        Start from a pretrained vision encoder and a pretrained decoder; everything between them is new.

        Args:
            vision (`str` or `PreTrainedModel`): a folder, a Hub id, or a loaded vision encoder.
            text (`str` or `PreTrainedModel`): a folder, a Hub id, or a loaded causal language model.
            config_kwargs: further [`UniMPConfig`] arguments.

        Raises:
            `ValueError`: the decoder would silently ignore pictures, its logits are not a product with its head, or
                there is no such configuration argument.
        """
        check_keys(config_kwargs)
        vision = _load_vision_encoder(vision) if isinstance(vision, str) else vision
        text = AutoModelForCausalLM.from_pretrained(text) if isinstance(text, str) else text
        if getattr(text.get_output_embeddings(), "bias", None) is not None:
            raise ValueError(
                f"`text` of type {text.config.model_type!r} adds a bias to its logits, which UniMP does "
                "not reproduce: choose another decoder."
            )
        size = getattr(vision.config, "image_size", 64)
        size = (size, size) if isinstance(size, int) else tuple(size)
        pixel_values = torch.zeros(1, 3, *size, dtype=vision.dtype, device=vision.device)
        with torch.no_grad():
            features = vision.eval()(pixel_values=pixel_values).last_hidden_state
            words = text.get_input_embeddings()(torch.arange(256, device=text.device) % text.config.vocab_size)
        # Items enter the decoder at the size of its words.
        config_kwargs.setdefault("item_embedding_scale", words.float().square().mean().sqrt().item() / 0.02)
        config = UniMPConfig(
            vision_config=vision.config,
            text_config=text.config,
            vision_hidden_size=features.shape[1] if features.ndim == 4 else features.shape[-1],
            **config_kwargs,
        )
        model = cls._from_config(config, dtype=text.dtype)  # unlike `to`, leaves rotary frequencies in full precision
        model.model.vision_encoder.load_state_dict(vision.state_dict())
        model.model.language_model.load_state_dict(text.base_model.state_dict())
        model.lm_head.load_state_dict(text.get_output_embeddings().state_dict())
        model.tie_weights()
        # Its sampling settings are a chat's; a repetition penalty would punish items for having been bought.
        special_tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.generation_config = GenerationConfig(
            **{name: getattr(text.generation_config, name) for name in special_tokens}
        )
        probe = torch.tensor([[config.image_token_id] * config.tokens_per_image])
        with torch.no_grad():
            model.eval()(input_ids=probe, pixel_values=pixel_values.to(probe.device))  # refuses what ignores pictures
        return model

    def get_output_embeddings(self) -> nn.Linear:
        """The text head."""
        return self.lm_head

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See [`UniMPModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values)

    def set_trainable(self, policy: Literal["all", "new"]) -> list[str]:
        """
        Choose what trains, by name; the vision encoder never does (the items' pictures are stored as it saw them).

        Args:
            policy (`"all"` or `"new"`): everything else, or only what UniMP adds to its backbones: resampler and
                cross-attention or visual prompt, item rows, markers and behaviours.

        Returns:
            `list[str]`: names of the parameters that train.
        """
        if policy not in ("all", "new"):
            raise ValueError(f"`policy` must be 'all' or 'new', got {policy!r}.")
        frozen = ("model.vision_encoder.",)
        if policy == "new":
            frozen += ("model.language_model.", "lm_head.")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_latents: torch.Tensor | None = None,
        image_index: torch.LongTensor | None = None,
        behavior_ids: torch.LongTensor | None = None,
        new_item_text_ids: torch.LongTensor | None = None,
        new_item_image_index: torch.LongTensor | None = None,
        query_matches: torch.Tensor | None = None,
        history_scores: torch.Tensor | None = None,
        prefill: UniMPPrefill | None = None,
        inputs_embeds: None = None,
        labels: torch.LongTensor | None = None,
        later_labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> UniMPCausalLMOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`):
                Text tokens, then markers, item codes (those of level l begin at `config.level_starts[l]`) and, last,
                the new items of this batch: `config.vocab_size + n * config.code_levels + level` is a token of the
                n-th of `new_item_text_ids`.
            pixel_values (`torch.Tensor` of shape `(pictures, channels, height, width)`, *optional*):
                The batch's distinct pictures.
            image_features (`torch.Tensor` of shape `(pictures, positions, vision_hidden_size)`, *optional*):
                Their `get_image_features`, instead.
            image_latents (`torch.Tensor` of shape `(pictures, num_latents, hidden_size)`, *optional*):
                What the resampler makes of those, instead; of the visual prompt `(pictures, visual_prompt_tokens,
                row_size)`. Where pictures are given in several of these ways, latents are counted first, then
                features, then pixels; a new item's picture cannot be given as latents.
            image_index (`torch.LongTensor` of shape `(batch, images)`, *optional*):
                Which picture a sample's n-th `<image>` is, -1 for padding; with `visual_prompt_tokens` each picture
                is so many of them, one after the other. In order of appearance by default.
            behavior_ids (`torch.LongTensor` of shape `(batch, tokens, behaviours)`, *optional*):
                Behaviours of the event a token stands for, 0 for none; of an item's tokens the last has them.
            new_item_text_ids (`torch.LongTensor` of shape `(items, tokens)`, *optional*):
                Text of items outside the catalogue, padded with -1.
            new_item_image_index (`torch.LongTensor` of shape `(items,)`, *optional*):
                Which picture each of them has, -1 for none.
            query_matches (`torch.Tensor` of shape `(batch, num_items)`, *optional*):
                How well each item has the words of what a row asks, from 0 to about 1: it counts at the row's
                last `<|item|>`. Of items with a code of their own alone.
            history_scores (`torch.Tensor` of shape `(batch, num_items)`, *optional*):
                What a row's history adds to each item's logit, beside what is learned, at the row's last token, which
                an item follows. For answers, so not with `labels`; of items with a code of their own.
            prefill ([`UniMPPrefill`], *optional*):
                What reading the prompt left, for cached decoding.
            inputs_embeds (`None`):
                Not supported, as pictures and items are found by their tokens; here because adapters hand it on.
            labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Tokens to predict, -100 elsewhere; shifted inside. With labels, only the positions before one reach a
                vocabulary: `log_probs` and `loss` are returned, `logits` are not.
            later_labels (`torch.LongTensor` of shape `(batch, tokens, later)`, *optional*):
                Beside an item label, the items that come after it, -100 for none: how probable they are at the same
                position is returned as `later_log_probs`.
        """
        if inputs_embeds is not None:
            raise ValueError("`inputs_embeds` is not supported: give `input_ids`.")
        check_item_scores("query_matches", query_matches, self.config, len(input_ids))
        check_item_scores("history_scores", history_scores, self.config, len(input_ids))
        if labels is not None and history_scores is not None:
            raise ValueError("`history_scores` are for answering: leave them out with `labels`.")
        item_rows = prefill.item_rows if prefill is not None else self.compute_item_rows()
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            pixel_values=pixel_values,
            image_features=image_features,
            image_latents=image_latents,
            image_index=image_index,
            behavior_ids=behavior_ids,
            new_item_text_ids=new_item_text_ids,
            new_item_image_index=new_item_image_index,
            item_rows=item_rows,
            prefill=prefill,
            use_cache=False if use_cache is None and labels is not None else use_cache,
            **kwargs,
        )
        logits = log_probs = later_log_probs = loss = None
        if labels is None:
            hidden_states = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
            next_levels = slice_logits_to_keep(self._next_levels(input_ids)[..., None], logits_to_keep)[..., 0]
            added_scores = self._add_up_at(input_ids, query_matches, history_scores)
            if added_scores is not None:
                added_scores = slice_logits_to_keep(added_scores, logits_to_keep)
            logits = self._joint_logits(hidden_states, next_levels, item_rows[1], added_scores)
        else:
            log_probs, later_log_probs = self._label_log_probs(
                outputs.last_hidden_state, input_ids, labels, later_labels, item_rows[1], query_matches
            )
            count = (labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
            loss = -log_probs.sum() / torch.as_tensor(count).clamp(min=1)
        return UniMPCausalLMOutput(
            loss=loss,
            log_probs=log_probs,
            later_log_probs=later_log_probs,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            prefill=outputs.prefill,
        )


def _load_vision_encoder(name: str) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(name)
    # A two-tower checkpoint (CLIP, SigLIP): its vision tower alone.
    return AutoModel.from_pretrained(name, config=getattr(config, "vision_config", config))


UniMPModel.register_for_auto_class("AutoModel")
UniMPForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
