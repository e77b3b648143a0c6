"""Codebooks of semantic item codes, and how well a catalogue fills them."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

logger = logging.getLogger(__name__)

# Up to so many items one token an item is the default: they fit beside a vocabulary, and each has a row of its own.
MAX_ATOMIC_ITEMS = 50_000
# Learned levels of a semantic code; one that tells apart what shares them comes last.
LEARNED_LEVELS = 3
MIN_LEVEL_SIZE = 16
# Items that codebooks are fitted to: chosen by chance where there are more.
MAX_FITTED_ITEMS = 100_000
# More items than this are clustered in small batches.
MAX_FULL_BATCH = 20_000
# Where a code stands that no item is to get.
FAR = 1e3


def default_code_sizes(num_items: int) -> list[int]:
    """
    Four levels alike, of the smallest power of two whose square is at least twice the number of items: so much room
    have the last two levels together, so that even items that nothing tells apart all find a code.
    """
    size = MIN_LEVEL_SIZE
    while size**2 < 2 * num_items:
        size *= 2
    return [size] * (LEARNED_LEVELS + 1)


def fit_codebooks(embeddings: torch.Tensor, code_sizes: Sequence[int], seed: int = 0) -> torch.Tensor:
    """
    Codebooks by residual k-means: of each level what the levels before it leave of the embeddings is clustered.

    Args:
        embeddings (`torch.Tensor` of shape `(items, embedding size)`): what codes are made of.
        code_sizes (`Sequence[int]`): codes of each level; the last one is not fitted.
        seed (`int`): of k-means++ and of which items are looked at where there are very many.

    Returns:
        `torch.Tensor` of shape `(levels - 1, largest of their sizes, embedding size)`: the centroids. Where there are
        fewer distinct items than codes, those left over lie far from everything.
    """
    rows = embeddings.float().cpu().numpy()
    rng = np.random.default_rng(seed)
    if len(rows) > MAX_FITTED_ITEMS:
        rows = rows[rng.choice(len(rows), MAX_FITTED_ITEMS, replace=False)]
    centroids = np.full((len(code_sizes) - 1, max(code_sizes[:-1]), rows.shape[1]), FAR, dtype=np.float32)
    for level, size in enumerate(code_sizes[:-1]):
        found, nearest = _cluster(rows, size, seed + level)
        centroids[level, : len(found)] = found
        rows = rows - found[nearest]
    return torch.from_numpy(centroids)


def _cluster(rows: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `size` centroids, and which one is nearest to each row."""
    distinct = len(np.unique(rows.round(6), axis=0))
    kmeans = KMeans if len(rows) <= MAX_FULL_BATCH else MiniBatchKMeans
    settings = {} if kmeans is KMeans else {"batch_size": 4096}
    fitted = kmeans(min(size, distinct), n_init=1, max_iter=100, random_state=seed, **settings).fit(rows)
    return fitted.cluster_centers_.astype(np.float32), fitted.labels_


def code_report(item_codes: Any) -> dict[str, Any]:
    """
    How well a catalogue fills its semantic codes.

    Args:
        item_codes ([`UniMPItemCodes`]): a model's `model.item_codes`.

    Returns:
        `dict[str, Any]`: `used`, per learned level the share of codes that some item has; `perplexity`, to how many
        equally frequent codes that comes; `collision_rate`, the share of items that another one shares all learned
        codes with; `largest_collision`, most items that share them; `kept_variance`, the share of the variance of the
        first items' embeddings that codes tell (what is left is the reconstruction error).
    """
    codes = item_codes.codes.cpu().numpy()
    used, perplexity = [], []
    for level, size in enumerate(item_codes.code_sizes[:-1]):
        shares = np.bincount(codes[:, level], minlength=size) / len(codes)
        shares = shares[shares > 0]
        used.append(len(shares) / size)
        perplexity.append(float(np.exp(-(shares * np.log(shares)).sum())))
    groups = np.unique(codes[:, :-1], axis=0, return_counts=True)[1]
    return {
        "code_sizes": list(item_codes.code_sizes),
        "used": used,
        "perplexity": perplexity,
        "collision_rate": float(groups[groups > 1].sum() / len(codes)),
        "largest_collision": int(groups.max()),
        "kept_variance": float(item_codes.kept_variance),
    }


def describe_codes(report: dict[str, Any]) -> str:
    """A [`code_report`] in a sentence."""
    used = ", ".join(f"{share:.0%}" for share in report["used"])
    perplexity = ", ".join(f"{value:.0f}" for value in report["perplexity"])
    return (
        f"Semantic codes of sizes {report['code_sizes']}: {used} of the codes used, perplexity {perplexity}; "
        f"{report['collision_rate']:.1%} of the items share theirs, at most {report['largest_collision']} of them; "
        f"{report['kept_variance']:.0%} of the variance told."
    )
