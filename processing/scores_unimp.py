"""What a request's words, and what people choose together, tell of items by themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .catalog_unimp import flatten_value
from .columns_unimp import Columns
from .keywords_unimp import item_words
from .requests_unimp import Entry
from .tasks_unimp import HISTORY, get_task
from .words_unimp import WordIndex

# How much it adds to an item's score that it has words of a history's items, and that people choose it close to them.
WORD_SIMILARITY, CHOICE_SIMILARITY = 4.0, 12.0


class Remembered(dict):
    """What can be computed again, and so is never copied: a processor copies itself to be written as JSON."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remembered":
        return Remembered()


class ItemScoresMixin:
    """Scores of items of [`UniMPProcessor`], beside what a network learns."""

    def query_matches(self, query: Any) -> torch.Tensor:
        """How well each item of the catalogue has the words of a query, `[items]` from 0 on; see [`WordIndex`]."""
        return torch.from_numpy(self._word_index().match(flatten_value(query, self.max_words)))

    def word_similarities(self, history: Sequence[Any]) -> torch.Tensor:
        """
        How alike each item of the catalogue is in its words to those of a history, `[items]`; see [`WordIndex`].

        Args:
            history (`Sequence`): as in a request.
        """
        return torch.from_numpy(self._word_similarities(self._entries(history, HISTORY, self.format)))

    def _word_similarities(self, entries: Sequence[Entry]) -> np.ndarray:
        items = [
            item_words(entry.attributes, self.max_words) if entry.position is None else entry.position
            for entry in entries
        ]
        return self._word_index().similarity(items)

    def _history_scores(self, entries: Sequence[Entry]) -> torch.Tensor:
        """What a history adds to each item's score, beside what is learned, `[items]`."""
        scores = np.zeros(len(self.catalog), dtype=np.float32)
        if self.word_similarity:
            scores += self.word_similarity * self._word_similarities(entries)
        if self.choice_similarity and self.catalog.neighbours is not None:
            positions = [-1 if entry.position is None else entry.position for entry in entries]
            scores += self.choice_similarity * self.catalog.neighbours.similarity(positions)
        return torch.from_numpy(scores)

    def _word_index(self) -> WordIndex:
        table = self._require_catalog().table
        if self._words.get("table") is not table:  # every change of a catalogue is a new table, not all are of words
            attributes, index = table.select(self.catalog.attribute_names), self._words.get("index")
            if index is None or not attributes.equals(self._words["attributes"]):
                items = map(self.catalog.attributes, range(len(self.catalog)))
                index = WordIndex([item_words(item, self.max_words) for item in items])
            self._words = Remembered(table=table, attributes=attributes, index=index)
        return self._words["index"]

    def _scores_of_items(
        self, samples: list[Any], shown: list[Sequence[Entry]], tasks: list[str], training: bool
    ) -> dict[str, torch.Tensor]:
        """What a search's query, or the history that a recommendation shows, tells of each item by itself."""
        if self.code_sizes is not None:  # semantic codes are of several items each
            return {}
        asked = [get_task(task).asks for task in tasks]
        queries = {row: samples[row][Columns.QUERY] for row, what in enumerate(asked) if what == Columns.QUERY}
        # For answers alone: with them in training, the network would not learn what they tell.
        histories = {row: shown[row] for row, what in enumerate(asked) if what is None and not training}
        found = {
            "query_matches": {row: self.query_matches(query) for row, query in queries.items()},
            "history_scores": {row: self._history_scores(entries) for row, entries in histories.items()},
        }
        nothing = torch.zeros(len(self.catalog))
        return {
            name: torch.stack([rows.get(row, nothing) for row in range(len(tasks))])
            for name, rows in found.items()
            if rows
        }
