"""Which items people choose close together, for a catalogue to keep."""

import numpy as np
from datasets import Dataset

from ..processing import Catalog
from ..processing.neighbours_unimp import Neighbours
from .evaluation import train_counts
from .item_start import pair_counts

# Of an item, so many at most.
MOST_NEIGHBOURS = 100
# Added to how often an item occurs: one pair of rare items could be chance.
SHRINKAGE = 10


def find_neighbours(train: Dataset, catalog: Catalog) -> Neighbours:
    """
    Of every item those that people choose close to it more often than by chance. A pair weighs what [`pair_counts`]
    has beyond what it would have if items stood anywhere, over the root of how often each of the two occurs (ItemKNN,
    with shrinkage).

    Args:
        train (`datasets.Dataset`): sequences that are trained on.
        catalog ([`Catalog`]): the items.
    """
    pairs = pair_counts(train, catalog)
    first, second = pairs.indices().numpy()
    totals = np.bincount(first, pairs.values(), minlength=len(catalog))
    excess = pairs.values().numpy() - totals[first] * totals[second] / max(totals.sum(), 1e-9)
    occurs = np.sqrt(train_counts(train, catalog.item_ids) + SHRINKAGE)
    weights = (excess / (occurs[first] * occurs[second])).astype(np.float32)
    order = np.lexsort((-weights, first))
    order = order[(weights[order] > 0) & (first[order] != second[order])]
    # The place of each in its item's list, heaviest first.
    place = np.arange(len(order)) - np.searchsorted(first[order], first[order])
    order = order[place < MOST_NEIGHBOURS]
    starts = np.cumsum([0, *np.bincount(first[order], minlength=len(catalog))])
    return Neighbours(starts, second[order], weights[order])
