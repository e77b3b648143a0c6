"""How answers are read out of the network: item answers over the catalogue, text answers through `generate`."""

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from .outputs_unimp import UniMPPromptState
from .queries_unimp import check_item_scores
from .trie_unimp import AllowedItems, ItemTrie, check_positions

if TYPE_CHECKING:
    from transformers import ModelOutput

# Inputs of the prompt alone; cached decoding has them in `prefill`.
PROMPT_INPUTS = (
    "pixel_values",
    "image_features",
    "image_latents",
    "image_index",
    "behavior_ids",
    "new_item_text_ids",
    "new_item_image_index",
    "query_matches",
    "history_scores",
)
# Of these, the ones with a row a picture or a new item instead of a row a sample.
PICTURES = ("image_latents", "image_features", "pixel_values")
BATCH_WIDE_INPUTS = (*PICTURES, "new_item_text_ids", "new_item_image_index")

# Items that `score_items` reads at once after every prompt.
ITEMS_AT_ONCE = 128


def _whole_number(name: str, number: Any) -> int:
    """A number of at least 1, of whatever type whole numbers come in."""
    try:
        whole = operator.index(number)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {number!r}.")
    return whole


def _top_k(scores: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return scores.topk(min(number, scores.shape[-1]), dim=-1)


def other_layers(language_model: PreTrainedModel) -> list[str]:
    """Kinds of the decoder's layers that are no attention to single tokens (a state, chunks)."""
    layer_types = getattr(language_model.config, "layer_types", None) or []
    return sorted(set(layer_types) - {"full_attention", "sliding_attention"})


def check_reads_trees(language_model: PreTrainedModel) -> None:
    """
    Raises `ValueError` where a decoder cannot be told what to see token by token, as reading several continuations of
    one prompt at once needs.
    """
    implementation = language_model.config._attn_implementation
    if implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"`attn_implementation` {implementation!r} cannot read several answers at once, as items of several code "
            'tokens need: load the model with `attn_implementation="sdpa"`.'
        )
    if other := other_layers(language_model):
        raise ValueError(
            f"`text_config` of type {language_model.config.model_type!r} has layers of type {other[0]!r}, which "
            "cannot read several answers at once, as items of several code tokens need: choose another decoder, or "
            "atomic codes."
        )


def tree_masks(
    language_model: PreTrainedModel, sees: torch.Tensor, distance: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """
    Attention masks with which a decoder reads several continuations of one prompt at once, in the form it takes.

    Args:
        language_model: the decoder.
        sees: boolean `[batch, 1, tokens, all tokens]`, what each token continues.
        distance: `[tokens, all tokens]`, how many positions that lies before it; windows end by it.
    """
    config = language_model.config
    window = getattr(config, "sliding_window", None)
    masks = {"full_attention": sees, "sliding_attention": sees if window is None else sees & (distance < window)}
    if config._attn_implementation == "eager":  # it adds the mask
        dtype = language_model.dtype
        masks = {
            kind: torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
            for kind, mask in masks.items()
        }
    if window is not None and getattr(config, "layer_types", None):
        return masks
    return masks["full_attention" if window is None else "sliding_attention"]


class ItemDecodingMixin:
    """Answers of [`UniMPForConditionalGeneration`]."""

    @property
    def trie(self) -> ItemTrie:
        """The catalogue's item codes; made at first use, and again when the items or the model's device changed."""
        codes = None if self.model.item_codes is None else self.model.item_codes.codes
        # Codes are also changed in place, which their version tells; tensors of inference mode have none.
        version = None if codes is None or codes.is_inference() else codes._version
        key = (self.config.num_items, self.device, version)
        known = self.__dict__.get("_trie")
        if known is None or known[0] != key or known[1] is not codes:
            number = torch.arange(self.config.num_items, device=self.device)
            known = self.__dict__["_trie"] = (key, codes, ItemTrie(number[:, None] if codes is None else codes))
        return known[2]

    @torch.no_grad()
    def read_prompt(self, use_cache: bool = True, **inputs: Any) -> UniMPPromptState:
        """
        Read prompts and their pictures, once for everything that is decoded from them.

        Args:
            use_cache (`bool`, defaults to `True`): keep what decoding further tokens needs.
            inputs: a left-padded prompt, see [`UniMPForConditionalGeneration.forward`].
        """
        mask = inputs.pop("attention_mask", None)
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        of_items = {name: inputs.pop(name, None) for name in ("query_matches", "history_scores")}
        for name, values in of_items.items():
            check_item_scores(name, values, self.config, len(inputs["input_ids"]))
        cache = self._new_cache() if use_cache else None
        rows = self.compute_item_rows()
        outputs = self.model(**inputs, attention_mask=mask, item_rows=rows, past_key_values=cache, use_cache=use_cache)
        return UniMPPromptState(
            outputs.last_hidden_state[:, -1], cache, mask, outputs.prefill, self._add_up(**of_items)
        )

    def _new_cache(self) -> DynamicCache:
        if other_layers(self.model.language_model):
            return DynamicCache(config=self.config.text_config)
        # Without the configuration, layers with a sliding window keep all tokens, too: what a tree of continuations
        # adds can then be taken off again.
        return DynamicCache()

    def rank_items(
        self,
        top_k: int = 10,
        exclude: torch.LongTensor | None = None,
        candidates: torch.LongTensor | None = None,
        beam_width: int | None = None,
        **inputs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The most probable next items: the prompt is read once, then [`~UniMPForConditionalGeneration.rank_from`].

        Args:
            top_k, exclude, candidates, beam_width: see there.
            inputs: a left-padded prompt that an item follows, see [`UniMPForConditionalGeneration.forward`].

        Returns:
            `(scores, items)`, as there.
        """
        top_k = _whole_number("top_k", top_k)  # before the prompt is read
        state = self.read_prompt(use_cache=self.config.code_levels > 1, **inputs)
        return self.rank_from(state, top_k, exclude, candidates, beam_width)

    @torch.no_grad()
    def rank_from(
        self,
        state: UniMPPromptState,
        top_k: int = 10,
        exclude: torch.LongTensor | None = None,
        candidates: torch.LongTensor | None = None,
        beam_width: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The most probable next items after prompts that were read; `state` is left as it was.

        Atomic codes: the exact answer. Semantic codes: a beam search, one forward a level, whose beams are tokens of
        the prompt's own row and share its cache. A beam never follows codes that no item has or whose items may all
        not be answered, so one at least `top_k` wide finds `top_k` items wherever there are so many. They are exactly
        the best ones where the items share no more than `beam_width` beginnings of codes a level; a narrower beam may
        miss an item whose first codes are improbable.

        Args:
            state ([`UniMPPromptState`]): of prompts that an item follows.
            top_k (`int`, defaults to 10): how many.
            exclude (`torch.LongTensor` of shape `(batch, n)`, *optional*): positions in the catalogue of each sample
                that must not be returned, padded with -1.
            candidates (`torch.LongTensor` of shape `(batch, n)`, *optional*): the only positions that may be returned,
                padded with -1. By default the whole catalogue; for a row of nothing but -1, nothing.
            beam_width (`int`, *optional*): beginnings of codes that are followed at each level; twice `top_k` by
                default. A narrower one than `top_k` may find fewer items.

        Returns:
            `(scores, items)`, each of shape `(batch, min(top_k, num_items))`, best first: log-probabilities over all
            codes, whatever is left out, and positions in the catalogue, none twice. Where fewer items are left, the
            rest has score `-inf` and item -1.

        Raises:
            `ValueError`: `top_k` or `beam_width` is no whole number of at least 1, `exclude` or `candidates` are no
                such tensors or hold other positions, `state` was read without a cache that is needed or before items
                were added to atomic codes, or the decoder cannot read several beams at once.
        """
        top_k = _whole_number("top_k", top_k)
        beam_width = 2 * top_k if beam_width is None else _whole_number("beam_width", beam_width)
        trie, rows, batch_size = self.trie, state.prefill.item_rows[1], len(state.hidden_states)
        self._check_state(state)
        top_k = min(top_k, trie.num_items)
        if not top_k:
            return rows.new_empty(batch_size, 0, dtype=torch.float), trie.item_of_leaf.new_empty(batch_size, 0).long()
        allowed = AllowedItems(trie, batch_size, exclude, candidates)
        width = top_k if trie.num_levels == 1 else beam_width
        scores, nodes = allowed.first_level(self.level_log_probs(state.hidden_states, 0, rows, state.added_scores))
        scores, best = _top_k(scores, width)
        nodes = best if nodes is None else nodes.gather(1, best)
        if trie.num_levels > 1:
            scores, nodes = self._follow_beams(state, allowed, scores, nodes, width, top_k)
        items = trie.item_of_leaf[nodes].long().masked_fill(scores == -torch.inf, -1)
        missing = (0, top_k - items.shape[1])
        return nn.functional.pad(scores, missing, value=-torch.inf), nn.functional.pad(items, missing, value=-1)

    def _check_state(self, state: UniMPPromptState) -> None:
        rows, needed = len(state.prefill.item_rows[1]), self.config.num_code_rows
        if rows != needed:
            raise ValueError(
                f"`state` was read when the model had {rows} item codes, now it has {needed}: read the prompt again."
            )
        if self.config.code_levels > 1 and state.past_key_values is None:
            raise ValueError("`state` has no cache, as items of several code tokens need: read the prompt with one.")

    def _follow_beams(
        self,
        state: UniMPPromptState,
        allowed: AllowedItems,
        scores: torch.Tensor,
        nodes: torch.Tensor,
        width: int,
        top_k: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From beams at the first level, scores and nodes `[batch, beams]`, down to the `top_k` best leaves."""
        check_reads_trees(self.model.language_model)
        trie, rows, length = allowed.trie, state.prefill.item_rows[1], state.attention_mask.shape[1]
        sees = torch.zeros(*nodes.shape, 0, dtype=torch.bool, device=nodes.device)
        depth = nodes.new_zeros(0)
        try:
            for level in range(1, trie.num_levels):
                itself = torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
                sees = torch.cat([sees, itself.expand(len(nodes), -1, -1)], dim=-1)
                depth = torch.cat([depth, depth.new_full((nodes.shape[1],), level - 1)])
                tokens = self._code_tokens(level - 1, trie.codes[level - 1][nodes])
                log_probs = self.level_log_probs(self._read_tree(state, tokens, depth, sees), level, rows)
                children, exist = trie.children(level, nodes)
                log_probs = scores[..., None] + log_probs.gather(-1, trie.codes[level][children].long())
                exist &= allowed.below(level, children)
                log_probs = log_probs.masked_fill(~exist, -torch.inf).flatten(1)
                scores, best = _top_k(log_probs, width if level < trie.num_levels - 1 else top_k)
                nodes = children.flatten(1).gather(1, best)
                parents = best // children.shape[-1]
                sees = sees.gather(1, parents[..., None].expand(-1, -1, sees.shape[-1]))
        finally:
            state.past_key_values.crop(length - state.past_key_values.get_seq_length())
        return scores, nodes

    def _code_tokens(self, level: int, codes: torch.Tensor) -> torch.Tensor:
        return codes + (self.config.first_item_id + self.config.level_starts[level])

    def _read_tree(
        self, state: UniMPPromptState, tokens: torch.Tensor, depth: torch.Tensor, sees: torch.Tensor
    ) -> torch.Tensor:
        """
        Hidden states, `[batch, tokens, hidden_size]`, of tokens that continue a prompt in different ways; they stay in
        its cache.

        Args:
            state: of the prompt; its cache may hold further tokens of the tree.
            tokens: `[batch, tokens]`.
            depth: `[tree tokens]`, how many tokens lie between the prompt and each one, those in the cache first.
            sees: boolean `[batch or 1, tokens, tree tokens]`, which of the tree's tokens each one continues, itself
                included.
        """
        prompt = state.attention_mask.bool()
        own = depth[-tokens.shape[1] :]
        sees = torch.cat([prompt[:, None].expand(-1, len(own), -1), sees.expand(len(prompt), -1, -1)], dim=-1)[:, None]
        place = torch.cat([torch.arange(-prompt.shape[1], 0, device=depth.device), depth])
        distance = own[:, None] - place
        return self.model(
            input_ids=tokens,
            attention_mask=tree_masks(self.model.language_model, sees, distance),
            position_ids=prompt.sum(-1, keepdim=True) + own,
            past_key_values=state.past_key_values,
            prefill=state.prefill,
            use_cache=True,
        ).last_hidden_state

    def _item_log_probs(self, state: UniMPPromptState, codes: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """
        Exact log-probability of items after prompts, each item's codes read as a continuation of its own.

        Args:
            state: of the prompts; left as it was.
            codes: `[batch, items, levels]`.
            first: `[batch, level_sizes[0]]`, log-probability of the codes of the first level.
        """
        items, levels = codes.shape[1:]
        log_probs = first.gather(1, codes[..., 0].long())
        if levels == 1:
            return log_probs
        check_reads_trees(self.model.language_model)
        tokens = [self._code_tokens(level, codes[..., level]) for level in range(levels - 1)]
        depth = torch.arange(levels - 1, device=codes.device).repeat(items)
        item = torch.arange(items, device=codes.device).repeat_interleave(levels - 1)
        sees = (item[:, None] == item) & (depth[:, None] >= depth)
        hidden_states = self._read_tree(state, torch.stack(tokens, dim=-1).flatten(1), depth, sees[None])
        state.past_key_values.crop(-len(depth))
        hidden_states = hidden_states.unflatten(1, (items, levels - 1))
        for level in range(1, levels):
            own = self.level_log_probs(hidden_states[:, :, level - 1], level, state.prefill.item_rows[1])
            log_probs = log_probs + own.gather(-1, codes[..., level : level + 1].long())[..., 0]
        return log_probs

    def _item_codes(self, items: torch.Tensor) -> torch.Tensor:
        """Codes `[..., levels]` of positions in the catalogue `[...]`."""
        return items[..., None] if self.model.item_codes is None else self.model.item_codes.codes[items]

    @torch.no_grad()
    def score_items(self, **inputs: Any) -> torch.Tensor:
        """
        Log-probability of every item of the catalogue after a left-padded prompt, `[batch, num_items]`. Semantic codes
        are read item by item, a number of them at once: for a large catalogue, `rank_items` is what answers fast.
        """
        levels = self.config.code_levels
        state = self.read_prompt(use_cache=levels > 1, **inputs)
        first = self.level_log_probs(state.hidden_states, 0, state.prefill.item_rows[1], state.added_scores)
        if levels == 1:
            return first
        codes = self.model.item_codes.codes
        parts = (part.expand(len(first), -1, -1) for part in codes.split(ITEMS_AT_ONCE))
        return torch.cat([self._item_log_probs(state, part, first) for part in parts], dim=1)

    @torch.no_grad()
    def select_items(self, candidates: list[list[int]], **inputs: Any) -> list[list[int]]:
        """
        Choose among candidates: one after the other, until the end of the chunk is more probable than another one.

        Args:
            candidates (`list[list[int]]`): per sample, positions in the catalogue.
            inputs: a left-padded prompt that an item follows.

        Returns:
            `list[list[int]]`: per sample at least one of its candidates, none twice.

        Raises:
            `ValueError`: a sample has no candidates, or some that are no positions in the catalogue.
        """
        if len(candidates) != len(inputs["input_ids"]) or not all(candidates):
            raise ValueError(
                f"`candidates` must hold at least one item for each of {len(inputs['input_ids'])} samples."
            )
        rows = [torch.tensor(list(dict.fromkeys(row))) for row in candidates]
        check_positions("candidates", torch.cat(rows), self.config.num_items, lowest=0)
        items = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(self.device)
        left, codes = items >= 0, self._item_codes(items.clamp(min=0))
        state, chosen = self.read_prompt(**inputs), []
        # Not `generate`: its settings (a repetition penalty, say) are for text.
        while True:
            logits = self.item_logits(state.hidden_states, state.prefill.item_rows[1]).float()
            first = logits.log_softmax(-1)
            scores = self._item_log_probs(state, codes, first[:, 1:]).masked_fill(~left, -torch.inf)
            score, best = scores.max(dim=-1, keepdim=True)
            if chosen:
                left = left & (score >= first[:, :1])
            chosen.append(items.gather(1, best).where(left.any(-1, keepdim=True), -1))
            left = left.scatter(1, best, False)
            if not left.any():
                break
            state = self._append_item(state, codes.take_along_dim(best[..., None], dim=1)[:, 0])
        return [[item for item in row if item >= 0] for row in torch.cat(chosen, dim=1).tolist()]

    def _append_item(self, state: UniMPPromptState, codes: torch.Tensor) -> UniMPPromptState:
        """The prompts with an item, codes `[batch, levels]`, at their ends."""
        tokens = torch.stack([self._code_tokens(level, codes[:, level]) for level in range(codes.shape[1])], dim=-1)
        mask = torch.cat([state.attention_mask, torch.ones_like(tokens)], dim=1)
        outputs = self.model(
            input_ids=tokens,
            attention_mask=mask,
            past_key_values=state.past_key_values,
            prefill=state.prefill,
            use_cache=True,
        )
        return UniMPPromptState(outputs.last_hidden_state[:, -1], outputs.past_key_values, mask, outputs.prefill)

    @torch.no_grad()
    def score_texts(self, texts: list[list[int]], **inputs: Any) -> torch.Tensor:
        """
        Log-probability of each of some given answers after a prompt that text follows: the prompt is read once.

        Args:
            texts (`list[list[int]]`): text tokens of the answers, the same for all samples.
            inputs: a left-padded prompt, see [`UniMPForConditionalGeneration.forward`].

        Returns:
            `torch.Tensor` of shape `(batch, answers)`.
        """
        outputs = self(**inputs, use_cache=True, logits_to_keep=1)
        length, batch = max(map(len, texts)), len(inputs["input_ids"])
        tokens = torch.full((len(texts), length), -100, device=self.device)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        first = outputs.logits[:, -1].float().log_softmax(-1)[:, tokens[:, 0]]
        if length == 1:
            return first
        # The rest of every answer after every prompt: `answers` rows a sample, sharing nothing but the prompt's cache.
        outputs.past_key_values.batch_repeat_interleave(len(texts))
        prefill = outputs.prefill.repeat_interleave(len(texts))
        rest = tokens.repeat(batch, 1)
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        mask = torch.cat([mask.repeat_interleave(len(texts), dim=0), (rest[:, :-1] >= 0).long()], dim=1)
        logits = self(
            input_ids=rest[:, :-1].clamp(min=0),
            attention_mask=mask,
            past_key_values=outputs.past_key_values,
            prefill=prefill,
        ).logits
        picked = -torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), rest[:, 1:], ignore_index=-100, reduction="none"
        )
        return first + picked.sum(-1).view(batch, len(texts))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """Hand the prompt's pictures, behaviours and new items over once, with the prompt."""
        model_inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if model_inputs.get("prefill") is not None:
            for key in PROMPT_INPUTS:
                model_inputs.pop(key, None)
        elif (behavior_ids := model_inputs.get("behavior_ids")) is not None:
            # Without a cache the prompt is read again with its answer so far, which has no behaviours.
            missing = input_ids.shape[1] - behavior_ids.shape[1]
            model_inputs["behavior_ids"] = torch.nn.functional.pad(behavior_ids, (0, 0, 0, missing))
        return model_inputs

    def _update_model_kwargs_for_generation(
        self, outputs: "ModelOutput", model_kwargs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs)
        model_kwargs.pop("history_scores", None)  # they are of the prompt's last token, not of what is read anew
        if model_kwargs.get("use_cache", True):
            model_kwargs["prefill"] = outputs.prefill
        return model_kwargs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """One row a beam, but never one picture a beam: samples point at the batch's distinct pictures."""
        num_pictures = sum(len(model_kwargs[name]) for name in PICTURES if model_kwargs.get(name) is not None)
        if num_pictures and model_kwargs.get("image_index") is None:
            # The default order of appearance counts samples, not beams.
            model_kwargs["image_index"] = self.model.pictures_in_order(input_ids, num_pictures)
        shared = {key: model_kwargs.pop(key) for key in BATCH_WIDE_INPUTS if key in model_kwargs}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | shared
