"""Where the learned part of an item's code row starts: items that people choose close together start alike."""

import numpy as np
import scipy.sparse
import torch
from datasets import Dataset

from ..processing import Catalog, Columns
from ..processing.store import as_table

# Events up to so many steps apart count as chosen together, by 1 / steps.
WINDOW = 10
# Exponent of how often a neighbour occurs: rare neighbours otherwise tell too much (Levy et al., 2015, TACL).
SMOOTHING = 0.75
# More than so many take long in a wide decoder, and tell ever less.
MOST_DIRECTIONS = 256
# Of a row that tells something, relative to the root mean square of all.
LEAST_LENGTH = 1e-2


def cooccurrence_rows(train: Dataset, catalog: Catalog, size: int) -> torch.Tensor:
    """
    Items as points: the left singular vectors, by the root of their values, of the positive pointwise mutual
    information of being chosen close together. What a transformer would have to find out from random rows on few
    events is then where it starts from.

    Args:
        train (`datasets.Dataset`): sequences that will be trained on.
        catalog ([`Catalog`]): the items.
        size (`int`): width of a row.

    Returns:
        `torch.Tensor` of shape `(items, directions)`, at most `size` of them: root mean square 1 over all that is not
        0; zeros for an item of which `train` tells nothing.
    """
    information = _mutual_information(pair_counts(train, catalog))
    size = min(size, MOST_DIRECTIONS, len(catalog))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same start for every seed of training
        vectors, values, _ = torch.svd_lowrank(information, q=size, niter=6)
    rows = vectors * values.sqrt()
    lengths = rows.norm(dim=-1)
    # Of items that stand apart from the others nothing is in the directions that are kept, and rounding is left.
    rows = rows * (lengths > LEAST_LENGTH * lengths.square().mean().sqrt())[:, None]
    known = rows.any(dim=-1)
    return rows / rows[known].square().mean().sqrt() if known.any() else rows


def pair_counts(train: Dataset, catalog: Catalog) -> torch.Tensor:
    """How often two items stand close together, near ones counting more: sparse, symmetric, `(items, items)`."""
    lists = as_table(train)[Columns.ITEM_ID].combine_chunks()
    codes = np.array([catalog.position(item_id) for item_id in lists.flatten().to_pylist()], dtype=np.int64)
    people = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
    shape = (len(catalog), len(catalog))
    counts = scipy.sparse.csr_array(shape, dtype=np.float32)
    for steps in range(1, WINDOW + 1):
        same = people[steps:] == people[:-steps]
        weights = np.full(same.sum(), 1 / steps, dtype=np.float32)
        # Summed at once: the pairs of all steps together are ten times the events.
        counts += scipy.sparse.csr_array((weights, (codes[:-steps][same], codes[steps:][same])), shape)
    counts = (counts + counts.T).tocoo()
    return _sparse(torch.from_numpy(np.stack(counts.coords)), torch.from_numpy(counts.data), len(catalog)).coalesce()


def _mutual_information(counts: torch.Tensor) -> torch.Tensor:
    first, second = counts.indices()
    totals = torch.zeros(len(counts)).index_add_(0, first, counts.values())
    context = totals**SMOOTHING / (totals**SMOOTHING).sum().clamp(min=1e-9)
    values = torch.log(counts.values() / (totals[first] * context[second]))
    positive = values > 0
    return _sparse(counts.indices()[:, positive], values[positive], len(counts)).coalesce()


def _sparse(indices: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(indices, values, (size, size), check_invariants=False)
