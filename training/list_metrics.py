"""What recommended lists are like, whether or not they hit: how much of the catalogue they show, and how alike."""

from collections.abc import Sequence

import numpy as np

# Groups of items by how often they were trained on, see [`popularity_groups`].
POPULARITY_GROUPS = ("head", "mid", "tail", "never")
# The most words that [`word_vectors`] counts.
MAX_WORDS = 500


def coverage(lists: np.ndarray, num_items: int) -> float:
    """
    Share of the items that are recommended to anyone.

    Args:
        lists (`np.ndarray` of shape `(rows, k)`): positions of the recommended items, -1 where a list is shorter.
        num_items (`int`): how many could be recommended.
    """
    return len(np.unique(lists[lists >= 0])) / num_items


def gini(lists: np.ndarray, num_items: int) -> float:
    """
    How unequally items are recommended: 0 if all are equally often, (num_items - 1) / num_items if always the same.

    With the counts x in ascending order, `sum_i (2 i - n - 1) x_i / (n sum x)`. Arguments as in [`coverage`].
    """
    counts = np.sort(np.unique(lists[lists >= 0], return_counts=True)[1])
    ranks = num_items - len(counts) + np.arange(1, len(counts) + 1)  # those that are never recommended come first
    return float(((2 * ranks - num_items - 1) * counts).sum() / (num_items * counts.sum()))


def novelty(lists: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    Mean of -log2 of the items' shares of the training events, `[rows]`, in bits: how rare what is recommended is.

    Every item counts as if it had been chosen once more than it was, so that one never chosen has a share too.

    Args:
        lists (`np.ndarray` of shape `(rows, k)`): as in [`coverage`].
        counts (`np.ndarray` of shape `(items,)`): how often each was chosen in training.
    """
    bits = -np.log2((counts + 1) / (counts + 1).sum())
    return _means(np.where(lists >= 0, bits[lists], 0), lists >= 0)


def intra_list_diversity(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """
    1 less the mean cosine between two items of a list, `[rows]`; 0 for a list of fewer than two.

    Args:
        lists (`np.ndarray` of shape `(rows, k)`): as in [`coverage`].
        vectors (`np.ndarray` of shape `(items, size)`): what each item is like.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = np.zeros(len(lists))
    for row, items in enumerate(lists):
        chosen = unit[items[items >= 0]]
        if len(chosen) > 1:
            # All pairs, less each item with itself: one that nothing is known of is like no other.
            alike = (chosen.sum(0) ** 2).sum() - (chosen**2).sum()
            found[row] = 1 - alike / (len(chosen) * (len(chosen) - 1))
    return found


def _means(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    return (values * present).sum(1) / np.maximum(present.sum(1), 1)


def word_vectors(texts: Sequence[str]) -> np.ndarray | None:
    """
    Which of the most frequent words an item's text has, `[items, words]`; words that every text has tell nothing.

    `None` where that leaves no word.
    """
    words = [set(text.lower().split()) for text in texts]
    known, counts = np.unique([word for own in words for word in sorted(own)], return_counts=True)
    telling = counts < len(texts)
    known, counts = known[telling], counts[telling]
    if not len(known):
        return None
    most = known[np.argsort(-counts, kind="stable")[:MAX_WORDS]]
    column = {word: number for number, word in enumerate(most.tolist())}
    vectors = np.zeros((len(texts), len(most)), dtype=np.float32)
    for row, own in zip(vectors, words, strict=True):
        row[[column[word] for word in own if word in column]] = 1
    return vectors


def popularity_groups(counts: np.ndarray) -> np.ndarray:
    """
    The group of each item, numbers into `POPULARITY_GROUPS`.

    Items in order of how often they were trained on, the most frequent first, make up the head, the middle and the
    tail, a third of the training events each; an item belongs where its first event falls. Items never trained on are
    a group of their own.

    Args:
        counts (`np.ndarray` of shape `(items,)`): how often each was trained on.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    groups = np.empty(len(counts), dtype=int)
    groups[order] = np.minimum(2, 3 * before // max(1, counts.sum()))
    groups[counts == 0] = POPULARITY_GROUPS.index("never")
    return groups
