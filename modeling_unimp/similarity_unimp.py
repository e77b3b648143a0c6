"""What an item's likeness to the history adds to its score: similarity of content, beside what is learned."""

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer

# Of two items of a history that follow each other the earlier one counts so much of the later one.
DECAY = 0.6


def feature_directions(features: torch.Tensor) -> torch.Tensor:
    """
    Given features of the catalogue's items, `[num_items, item_feature_size]`, as deviations from their mean, each of
    length 1; zeros where nothing is known.
    """
    known = features.any(dim=-1, keepdim=True)
    mean = features.sum(0) / known.sum().clamp(min=1)
    return nn.functional.normalize(features - mean, dim=-1) * known


def tokens_so_far(input_ids: torch.Tensor, cache: Cache | None, layer: int) -> torch.Tensor:
    """
    `[batch, tokens]` with all tokens that were read before them. Their ids are kept as one more layer of the decoder's
    own cache, so that whatever is done to that (beams put in another order, tokens taken off again) is done to them.
    """
    if cache is None:
        return input_ids
    if cache.layer_class_to_replicate is None and len(cache.layers) == layer:  # it has the decoder's layers alone
        cache.layers.append(DynamicLayer())
    ids = input_ids[:, None, :, None]
    return cache.update(ids, ids[..., :0], layer)[0][:, 0, :, 0]


def history_directions(codes: torch.Tensor, directions: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    What the items before and at each of the last tokens are like: the sum of their directions, the most recent item's
    in full and each one before it `DECAY` times as much.

    Args:
        codes (`torch.LongTensor` of shape `(batch, tokens)`): which item a token is; negative for other tokens, and
            past the catalogue for an item whose features nobody gave.
        directions (`torch.Tensor` of shape `(num_items, item_feature_size)`): of [`feature_directions`].
        num_tokens (`int`): how many last tokens.

    Returns:
        `torch.Tensor` of shape `(batch, num_tokens, item_feature_size)`.
    """
    known = (codes >= 0) & (codes < len(directions))
    shown = nn.functional.embedding(codes.clamp(0, len(directions) - 1), directions) * known[..., None]
    number = (codes >= 0).cumsum(-1)
    age = number[:, -num_tokens:, None] - number[:, None]  # of an item that comes later: negative
    return torch.where(age >= 0, DECAY**age, 0.0).to(shown) @ shown
