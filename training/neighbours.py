"""Which items people choose close together, for a catalogue to keep."""

import logging

import numpy as np
from datasets import Dataset

from ..processing import Catalog
from ..processing.neighbours_unimp import Neighbours
from .evaluation import train_counts
from .item_start import pair_counts

logger = logging.getLogger(__name__)

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
    logger.info("Finding which items people choose close together ...")
    pairs = pair_counts(train, catalog)
    first, second = pairs.indices().numpy()
    totals = np.bincount(first, pairs.values(), minlength=len(catalog))
    excess = pairs.values().numpy() - totals[first] * totals[second] / max(totals.sum(), 1e-9)
    occurs = np.sqrt(train_counts(train, catalog.item_ids) + SHRINKAGE)
    weights = (excess / (occurs[first] * occurs[second])).astype(np.float32)
    kept = (weights > 0) & (first != second)
    return Neighbours.heaviest(first[kept], second[kept], weights[kept], len(catalog))
