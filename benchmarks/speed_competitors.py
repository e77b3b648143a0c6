"""
Top items by transformers' own `generate`, which repeats the prompt for every beam: as the original does it, and as
well as it can be done.
"""

from collections.abc import Callable
from typing import Any

import torch
from speed_common import code_tokens, item_codes
from transformers import LogitsProcessor, LogitsProcessorList

from unimp import UniMPForConditionalGeneration


def python_trie(model: UniMPForConditionalGeneration) -> dict[tuple[int, ...], list[int]]:
    """Tokens that may follow each prefix of an item's code tokens."""
    trie: dict[tuple[int, ...], set[int]] = {}
    for tokens in code_tokens(model, torch.arange(model.config.num_items)).tolist():
        for level, token in enumerate(tokens):
            trie.setdefault(tuple(tokens[:level]), set()).add(token)
    return {prefix: sorted(tokens) for prefix, tokens in trie.items()}


class TrieLogitsProcessor(LogitsProcessor):
    """
    Rules out, for all beams at once, every token that continues no item: the prefixes of each length are sorted
    numbers in a tensor, and a token is legal where the prefix that it makes is among them.
    """

    def __init__(self, model: UniMPForConditionalGeneration, prompt_length: int) -> None:
        self.first, self.prompt_length = model.config.first_item_id, prompt_length
        self.sizes = model.config.level_sizes
        self.offsets = [sum(self.sizes[:level]) for level in range(len(self.sizes))]
        key = torch.zeros(model.config.num_items, dtype=torch.long)
        self.prefixes = []
        for level, size in enumerate(self.sizes):
            key = key * size + item_codes(model)[:, level]
            self.prefixes.append(key.unique().to(model.device))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        tokens = input_ids[:, self.prompt_length :] - self.first
        level = tokens.shape[1]
        prefix = torch.zeros_like(input_ids[:, 0])
        for earlier in range(level):
            prefix = prefix * self.sizes[earlier] + tokens[:, earlier] - self.offsets[earlier]
        size, known = self.sizes[level], self.prefixes[level]
        candidates = prefix[:, None] * size + torch.arange(size, device=prefix.device)
        legal = known[torch.searchsorted(known, candidates).clamp(max=len(known) - 1)] == candidates
        block = slice(self.first + self.offsets[level], self.first + self.offsets[level] + size)
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, block] = scores[:, block].masked_fill(~legal, -torch.inf)
        return allowed


def item_lookup(model: UniMPForConditionalGeneration) -> Callable[[torch.Tensor], torch.Tensor]:
    """From code tokens `[..., levels]` to positions in the catalogue."""
    tokens = code_tokens(model, torch.arange(model.config.num_items)).tolist()
    positions = {tuple(row): position for position, row in enumerate(tokens)}
    return lambda found: torch.tensor([positions[tuple(row)] for row in found.tolist()])


def generate_items(model: UniMPForConditionalGeneration, beams: int, **inputs: Any) -> torch.Tensor:
    """Code tokens `[beams, levels]` of the best items for one person, best first, by stock beam search."""
    generated = model.generate(
        **inputs,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=model.config.code_levels,
        do_sample=False,
        pad_token_id=0,
    )
    return generated[:, inputs["input_ids"].shape[1] :]


def as_the_original(
    model: UniMPForConditionalGeneration,
    trie: dict[tuple[int, ...], list[int]],
    beams: int,
    input_ids: torch.Tensor,
    **inputs: torch.Tensor,
) -> torch.Tensor:
    """
    One person, the prompt and its pictures repeated for every beam, legal tokens looked up in a Python dictionary.

    `generate` repeats the prompt. Our model would have the beams share the pictures: they are repeated here, so that
    vision encoder, resampler and the keys and values of every cross-attention block run for each of the copies.
    """
    length = input_ids.shape[1]
    pictures = {name: inputs.pop(name) for name in ("pixel_values", "image_features") if name in inputs}
    repeated = {name: value.repeat(beams, *[1] * (value.ndim - 1)) for name, value in pictures.items()}
    return generate_items(
        model,
        beams,
        input_ids=input_ids,
        prefix_allowed_tokens_fn=lambda _, tokens: trie[tuple(tokens[length:].tolist())],
        **repeated,
        **inputs,
    )


def best_of_stock(
    model: UniMPForConditionalGeneration, processor: TrieLogitsProcessor, beams: int, **inputs: torch.Tensor
) -> torch.Tensor:
    """Pictures shared by the beams, legal tokens by tensor operations; the prompt is still repeated."""
    return generate_items(model, beams, logits_processor=LogitsProcessorList([processor]), **inputs)


@torch.no_grad()
def stock_from_a_cache(
    model: UniMPForConditionalGeneration,
    processor: TrieLogitsProcessor,
    beams: int,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    **inputs: torch.Tensor,
) -> torch.Tensor:
    """
    More than stock does by itself: the prompt is read once and its cache copied for every beam by hand, then
    `generate` goes on from its last token.
    """
    read = model(
        input_ids=input_ids[:, :-1],
        attention_mask=attention_mask[:, :-1],
        use_cache=True,
        logits_to_keep=1,
        **inputs,
    )
    read.past_key_values.batch_repeat_interleave(beams)
    return generate_items(
        model,
        beams,
        input_ids=input_ids,
        attention_mask=attention_mask,
        past_key_values=read.past_key_values,
        prefill=read.prefill.repeat_interleave(beams),
        logits_processor=LogitsProcessorList([processor]),
    )
