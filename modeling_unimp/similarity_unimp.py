"""What an item's likeness to the history adds to its score: similarity of content, beside what is learned."""

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer

# Weight of an item's direction relative to that of the one read after it.
DECAY = 0.6
# A deviation that is no larger than this share of the features is rounding.
LEAST_DEVIATION = 1e-6
# So is a spread that is no larger than this share of the largest one.
LEAST_SPREAD = 1e-3


def mean_features(features: torch.Tensor) -> torch.Tensor:
    """Of given features, `[num_items, item_feature_size]`, the mean of those that are known (not all zeros)."""
    return features.sum(0) / features.any(dim=-1).sum().clamp(min=1)


def feature_directions(features: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """
    Given features, `[num_items, item_feature_size]`, as deviations from `mean`, each of length 1; zeros where nothing
    is known.
    """
    deviations, length = features - mean, features.norm(dim=-1, keepdim=True)
    tells = (length > 0) & (deviations.norm(dim=-1, keepdim=True) > LEAST_DEVIATION * length)
    return nn.functional.normalize(deviations, dim=-1) * tells


def whiten(features: torch.Tensor, whitening: float) -> torch.Tensor:
    """
    Given features, `[num_items, item_feature_size]`, as deviations from the mean of those that are known (not all
    zeros), in which each principal direction is divided by its spread to the power of `whitening`: with 1, what sets
    few items apart tells as much as what sets most apart, such as what kind of shop they are of. Zeros where nothing
    is known.
    """
    deviations, length = features - mean_features(features), features.norm(dim=-1, keepdim=True)
    deviations = deviations * (deviations.norm(dim=-1, keepdim=True) > LEAST_DEVIATION * length) * (length > 0)
    with torch.autocast(features.device.type, enabled=False):  # half precision is too coarse for spreads
        # Of the covariance, as it is small: the spreads are the roots of its eigenvalues.
        variances, directions = torch.linalg.eigh(deviations.T @ deviations)
        spreads = variances.clamp(min=0).sqrt()
        kept = spreads > LEAST_SPREAD * spreads.amax()
        return deviations @ (directions * torch.where(kept, spreads**-whitening, 0.0)) @ directions.T


class TokenIds(DynamicLayer):
    """One more layer of a decoder's own cache: the ids of the tokens that were read."""


def tokens_so_far(input_ids: torch.Tensor, cache: Cache | None) -> torch.Tensor:
    """
    `[batch, tokens]` with all tokens that were read before them. Their ids are kept in the decoder's own cache, so
    that whatever is done to that (beams put in another order, tokens taken off again) is done to them.
    """
    if cache is None:
        return input_ids
    numbers = [number for number, layer in enumerate(cache.layers) if isinstance(layer, TokenIds)]
    if not numbers:
        numbers = [len(cache.layers)]
        cache.layers.append(TokenIds())
    ids = input_ids[:, None, :, None]
    return cache.update(ids, ids[..., :0], numbers[0])[0][:, 0, :, 0]


def history_directions(codes: torch.Tensor, directions: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    What the items before and at each of the last tokens are like: the sum of their directions, the most recent item's
    in full and each one before it `DECAY` times as much.

    Args:
        codes (`torch.LongTensor` of shape `(batch, tokens)`): which item a token is; negative for other tokens, and
            past the catalogue for an item outside it, whose features nobody gave.
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
