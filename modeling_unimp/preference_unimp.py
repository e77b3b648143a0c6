"""What a person likes, in the terms of a denoiser: soft preference embeddings and embedded keywords (PMG)."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, initialization

# What an embedding for the denoiser is of: nothing at all, a word of what was asked, a word of what they like, a soft
# preference embedding.
KINDS = ("nothing", "target", "preference", "soft")


@strict
class UniMPPreferenceConfig(PreTrainedConfig):
    """
    Configuration of [`UniMPPreference`].

    Args:
        hidden_size (`int`): width of the recommender's token embeddings.
        conditioning_size (`int`): width of what the denoiser is conditioned on (`cross_attention_dim`).
        num_soft_tokens (`int`, defaults to 4): trainable tokens appended to the prompt.
        num_prefix_tokens (`int`, defaults to 0): trainable keys and values that every layer of the recommender sees
            before the prompt (P-Tuning v2); 0 for none. They need `peft`.
        prefix_shape (`list[int]`, *optional*): with prefixes, the recommender's layers, key and value heads, and the
            width of a head.
        embedding_scale (`float`, defaults to 1.0): factor from a soft token to its input embedding.
    """

    model_type = "unimp_preference"

    hidden_size: int = 64
    conditioning_size: int = 64
    num_soft_tokens: int = 4
    num_prefix_tokens: int = 0
    prefix_shape: list[int] | None = None
    embedding_scale: float = 1.0
    initializer_range: float = 0.02

    def validate_sizes(self) -> None:
        """Refuse sizes that cannot make a module."""
        for name, least in (("conditioning_size", 1), ("num_soft_tokens", 1), ("num_prefix_tokens", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.num_prefix_tokens and self.prefix_shape is None:
            raise ValueError("`num_prefix_tokens` need `prefix_shape`: use `UniMPPreference.from_model`.")


class UniMPPreference(PreTrainedModel):
    """
    Reads a person's preference out of a frozen recommender (PMG, "soft preference embeddings"): trainable tokens stand
    after the prompt, and what the recommender makes of them is projected into the conditioning space of a denoiser.

    For a denoiser without a text encoder of its own it also embeds keywords, through the recommender's token
    embeddings. The recommender itself is an argument of `forward` and not a part: its weights stay as they are.
    """

    config: UniMPPreferenceConfig
    main_input_name = "input_ids"

    def __init__(self, config: UniMPPreferenceConfig) -> None:
        super().__init__(config)
        self.soft_tokens = nn.Parameter(torch.zeros(config.num_soft_tokens, config.hidden_size))
        self.prefix = _make_prefix(config) if config.num_prefix_tokens else None
        self.soft_norm = nn.LayerNorm(config.hidden_size)
        self.soft_projection = nn.Linear(config.hidden_size, config.conditioning_size)
        self.keyword_norm = nn.LayerNorm(config.hidden_size)
        self.keyword_projection = nn.Linear(config.hidden_size, config.conditioning_size)
        self.kinds = nn.Embedding(len(KINDS), config.conditioning_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            initialization.normal_(self.soft_tokens, std=self.config.initializer_range)
        elif module in (self.soft_projection, self.keyword_projection):
            initialization.normal_(module.weight, std=self.config.hidden_size**-0.5)  # what is of size 1 stays so
        elif module is self.kinds:
            initialization.normal_(module.weight, std=0.5)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        conditioning_size: int,
        num_soft_tokens: int = 4,
        num_prefix_tokens: int = 0,
    ) -> "UniMPPreference":
        """
        A new one for a recommender.

        Args:
            model ([`UniMPForConditionalGeneration`]): the recommender.
            conditioning_size, num_soft_tokens, num_prefix_tokens: see [`UniMPPreferenceConfig`].
        """
        return cls(
            UniMPPreferenceConfig(
                hidden_size=model.get_input_embeddings().embedding_dim,
                conditioning_size=conditioning_size,
                num_soft_tokens=num_soft_tokens,
                num_prefix_tokens=num_prefix_tokens,
                prefix_shape=_prefix_shape(model.config.text_config) if num_prefix_tokens else None,
                embedding_scale=float(model.model.embedding_scale),
                initializer_range=model.config.initializer_range,
            )
        )

    def forward(self, model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
        """
        Soft preference embeddings of people.

        Without prefixes the prompt is read without gradients, and only the soft tokens after it are differentiated.

        Args:
            model ([`UniMPForConditionalGeneration`]): the recommender.
            inputs: left-padded prompts, see [`UniMPForConditionalGeneration.forward`].

        Returns:
            `torch.Tensor` of shape `(batch, num_soft_tokens, conditioning_size)`.
        """
        mask = inputs.pop("attention_mask", None)
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        cache, mask = self._start(model, mask)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.prefix is not None):
            read = model.model(**inputs, attention_mask=mask, past_key_values=cache, use_cache=True)
        hidden_states = self._read_soft_tokens(model.model, read.past_key_values, read.prefill, mask)
        soft = self.soft_projection(self.soft_norm(hidden_states.to(self.dtype)))
        return soft + self.kinds.weight[KINDS.index("soft")]

    def _start(self, model: PreTrainedModel, mask: torch.Tensor) -> tuple[DynamicCache, torch.Tensor]:
        """The cache that a prompt is read into, and the mask over what is in it and the prompt."""
        cache, batch = DynamicCache(), len(mask)
        if self.prefix is None:
            return cache, mask
        layers, heads, head_dim = self.config.prefix_shape
        numbers = torch.arange(self.config.num_prefix_tokens, device=mask.device)
        states = self.prefix(numbers).to(model.dtype)  # [prefix tokens, layers * 2 * heads * head_dim]
        states = states.view(len(numbers), layers, 2, heads, head_dim).permute(1, 2, 3, 0, 4)
        for layer, (key, value) in enumerate(states):
            cache.update(key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1), layer)
        return cache, torch.cat([mask.new_ones(batch, len(numbers)), mask], dim=1)

    def _read_soft_tokens(
        self, model: nn.Module, cache: DynamicCache, prefill: Any, mask: torch.Tensor
    ) -> torch.Tensor:
        """Last hidden states of the soft tokens after the prompt; they see what a text token there would see."""
        batch, number = len(mask), len(self.soft_tokens)
        mask = torch.cat([mask, mask.new_ones(batch, number)], dim=1)
        embeddings = self.soft_tokens * self.config.embedding_scale
        outputs = model.language_model(
            inputs_embeds=embeddings.to(model.dtype).expand(batch, -1, -1),
            attention_mask=mask,
            position_ids=(mask.long().cumsum(-1) - 1)[:, -number:],
            past_key_values=cache,
            visual_context=model._visual_context(prefill.image_count[:, None].expand(-1, number), prefill),
            use_cache=True,
        )
        return outputs.last_hidden_state

    def embed_keywords(self, embeddings: torch.Tensor, kind: str) -> torch.Tensor:
        """
        Keywords, each as the mean of its token embeddings, for the denoiser.

        Args:
            embeddings (`torch.Tensor` of shape `(..., hidden_size)`): means of token embeddings.
            kind (`"target"` or `"preference"`): what the keywords say.

        Returns:
            `torch.Tensor` of shape `(..., conditioning_size)`.
        """
        words = self.keyword_projection(self.keyword_norm(embeddings.to(self.dtype)))
        return words + self.kinds.weight[KINDS.index(kind)]

    def nothing(self, batch: int) -> torch.Tensor:
        """What stands first, and alone where nothing is asked or known: `[batch, 1, conditioning_size]`."""
        return self.kinds.weight[KINDS.index("nothing")].expand(batch, 1, -1)


def _prefix_shape(text_config: PreTrainedConfig) -> list[int]:
    """Layers, key and value heads, and the width of a head of a decoder."""
    heads = text_config.num_attention_heads
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return [text_config.num_hidden_layers, getattr(text_config, "num_key_value_heads", None) or heads, head_dim]


def _make_prefix(config: UniMPPreferenceConfig) -> nn.Module:
    try:  # not before they are wanted: it takes seconds
        from peft import PrefixTuningConfig
        from peft.tuners import PrefixEncoder
    except ImportError as error:
        raise ImportError("`num_prefix_tokens` need `peft`: `pip install peft`, or leave them at 0.") from error
    layers, heads, head_dim = config.prefix_shape
    return PrefixEncoder(
        PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_layers=layers,
            token_dim=heads * head_dim,
            num_attention_heads=heads,
            num_transformer_submodules=1,
            num_virtual_tokens=config.num_prefix_tokens,
        )
    )
