"""What a denoiser learns from: what people had chosen, what they then asked for, and the picture of what they got."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers.utils import logging

from ..processing import Catalog, Columns
from ..processing.imagine_unimp import to_pixels
from .mixture import read_sequence


class ImaginePairs(torch.utils.data.Dataset):
    """
    A history and the item that came next, for every event whose item has a picture.

    Args:
        sequences (`datasets.Dataset`): events, a row a person, such as `split.train`.
        catalog ([`Catalog`]): the items.
        history_window (`int`, defaults to 20): most events of a history.

    Raises:
        `ValueError`: no event is of an item with a picture.
    """

    def __init__(self, sequences: Dataset, catalog: Catalog, history_window: int = 20) -> None:
        self.history_window = history_window
        self.sequences = [read_sequence(row) for row in sequences]
        pictured = {item_id for code, item_id in enumerate(catalog.item_ids) if catalog.has_image(code)}
        self.pairs = [
            (person, position)
            for person, events in enumerate(self.sequences)
            for position, event in enumerate(events)
            if event[Columns.ITEM_ID] in pictured
        ]
        if not self.pairs:
            raise ValueError("`sequences` has no event of an item with a picture: there is nothing to learn from.")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """`history` (events before), `query` (what was asked, or `None`) and `item_id` (what was chosen)."""
        person, position = self.pairs[number]
        events = self.sequences[person]
        return {
            "history": events[max(0, position - self.history_window) : position],
            "query": events[position].get(Columns.QUERY),
            "item_id": events[position][Columns.ITEM_ID],
        }

    @property
    def item_ids(self) -> list[str]:
        """The items to be drawn, each once."""
        return list(
            dict.fromkeys(self.sequences[person][position][Columns.ITEM_ID] for person, position in self.pairs)
        )


def read_pictures(catalog: Catalog, item_ids: Sequence[str], size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The pictures of these items, see [`to_pixels`], by item id."""
    items = logging.tqdm(item_ids, desc="Reading pictures", disable=len(item_ids) <= 500)
    return {item_id: to_pixels(catalog.image(catalog.position(item_id)), size) for item_id in items}


class EndlessOrder:
    """
    Which pairs every step sees: pass after pass over all of them, each in another order that `seed` and the number of
    the pass settle alone, so that a resumed run needs no more than the number of its step.
    """

    def __init__(self, number: int, batch_size: int, seed: int) -> None:
        self.number, self.batch_size, self.seed = number, batch_size, seed
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> list[int]:
        """The pairs of a step, counted from 0."""
        first = step * self.batch_size
        places = (divmod(place, self.number) for place in range(first, first + self.batch_size))
        return [int(self._pass(turn)[place]) for turn, place in places]

    def _pass(self, turn: int) -> np.ndarray:
        if self._order is None or self._order[0] != turn:
            self._order = turn, np.random.default_rng([self.seed, turn]).permutation(self.number)
        return self._order[1]
