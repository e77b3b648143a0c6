"""Explanations without a language model: what is most often said of the item, and what somebody said of it."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from .data import TrainingData, unit


@dataclass
class Template:
    """The sentence that occurs most often in the item's training explanations.

    Of sentences that are as frequent, the one that is as well most frequent among all items, then the earliest. An
    item without explanations gets the sentence most frequent among all.
    """

    def fit(self, data: TrainingData) -> None:
        by_item: dict[int, Counter[str]] = defaultdict(Counter)
        for item, text in zip(data.events.items.tolist(), data.events.texts, strict=True):
            if text is not None:
                by_item[item].update(_sentences(text))
        total = sum(by_item.values(), Counter())
        if not total:
            raise ValueError("`train` has no explanation to learn from; leave the explanation methods out.")
        self.default = max(total, key=total.get)
        self.by_item = {
            item: max(counts, key=lambda sentence: (counts[sentence], total[sentence]))
            for item, counts in by_item.items()
            if counts
        }

    def explain(self, items: np.ndarray, ratings: np.ndarray) -> list[str]:
        """A text for each item; `ratings`, those predicted for it, are not read."""
        return [self.by_item.get(item, self.default) for item in items.tolist()]


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


@dataclass
class NearestReview:
    """The training explanation of the item whose rating is nearest to the one predicted.

    Of ratings as near, the last one; explanations without a rating come after all others. An item without
    explanations takes those of the item whose features (`data.features`, all kinds) are most like its own; without
    features, those of all items.
    """

    def fit(self, data: TrainingData) -> None:
        kept = np.flatnonzero([text is not None for text in data.events.texts])
        if not len(kept):
            raise ValueError("`train` has no explanation to learn from; leave the explanation methods out.")
        self.items, self.texts = data.events.items[kept], data.events.texts[kept]
        self.ratings = data.events.ratings[kept]
        self.features = unit(data.unit_features(sorted(data.features))) if data.features else None

    def explain(self, items: np.ndarray, ratings: np.ndarray) -> list[str]:
        """A text for each item, where `ratings` are those predicted for it."""
        return [self._explain(item, rating) for item, rating in zip(items.tolist(), ratings.tolist(), strict=True)]

    def _explain(self, item: int, rating: float) -> str:
        reviews = self._reviews(item)
        distance = np.nan_to_num(np.abs(self.ratings[reviews] - rating), nan=np.inf)
        return self.texts[reviews[np.flatnonzero(distance == distance.min())[-1]]]

    def _reviews(self, item: int) -> np.ndarray:
        reviews = np.flatnonzero(self.items == item)
        if len(reviews):
            return reviews
        if self.features is None:
            return np.arange(len(self.items))
        nearest = self.items[np.argmax(self.features[self.items] @ self.features[item])]
        return np.flatnonzero(self.items == nearest)
