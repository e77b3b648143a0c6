"""Which items are chosen together, as a catalogue keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Weight of an item of a history relative to the one after it, and how many count: older ones weigh next to nothing.
DECAY, MOST_RECENT = 0.8, 20
# Of an item, so many at most.
MOST_NEIGHBOURS = 100

_TYPE = pa.list_(pa.struct({"position": pa.int32(), "weight": pa.float32()}))


@dataclass(frozen=True)
class Neighbours:
    """
    Of every item, those that people choose close to it.

    Attributes:
        starts (`np.ndarray` of shape `(items + 1,)`): where each item's neighbours begin in the other two.
        positions (`np.ndarray` of shape `(neighbours,)`): which items they are.
        weights (`np.ndarray` of shape `(neighbours,)`): how much more often than by chance, in float32.
    """

    starts: np.ndarray
    positions: np.ndarray
    weights: np.ndarray

    def similarity(self, history: Sequence[int]) -> np.ndarray:
        """
        How much the items of a history have each item as a neighbour, `[items]` in float32: the sum of the weights,
        those of the last of the `MOST_RECENT` items in full and each one's before it `DECAY` times as much.

        Args:
            history (`Sequence[int]`): positions of items, -1 for others; oldest first.
        """
        scores = np.zeros(len(self.starts) - 1, dtype=np.float32)
        for age, position in enumerate(history[: -MOST_RECENT - 1 : -1]):
            if position >= 0:
                own = slice(*self.starts[position : position + 2])
                scores[self.positions[own]] += DECAY**age * self.weights[own]  # each is there once
        return scores

    def merged(self, other: "Neighbours") -> "Neighbours":
        """Each pair as it weighs more in one of the two, of which the other one may know fewer items."""
        owners = np.concatenate([np.repeat(np.arange(len(n.starts) - 1), np.diff(n.starts)) for n in (self, other)])
        positions = np.concatenate([self.positions, other.positions])
        return Neighbours.heaviest(
            owners, positions, np.concatenate([self.weights, other.weights]), len(self.starts) - 1
        )

    @classmethod
    def heaviest(cls, owners: np.ndarray, positions: np.ndarray, weights: np.ndarray, num_items: int) -> "Neighbours":
        """
        The `MOST_NEIGHBOURS` of each item that weigh most. A pair that is given twice counts as its heavier one.

        Args:
            owners, positions, weights (`np.ndarray` of shape `(pairs,)`): of each pair the item, its neighbour and
                what that weighs.
            num_items (`int`): of the catalogue.
        """
        order, best = np.argsort(owners, kind="stable"), []
        for row in np.split(order, np.searchsorted(owners[order], np.arange(1, num_items))):
            row = row[np.lexsort((positions[row], -weights[row]))]
            first = np.unique(positions[row], return_index=True)[1]
            best.append(row[np.sort(first)[:MOST_NEIGHBOURS]])
        kept = np.concatenate(best)
        return cls(np.cumsum([0, *map(len, best)]), positions[kept], weights[kept])

    def column(self) -> pa.Array:
        """As a column of a catalogue's table."""
        arrays = (pa.array(self.positions, pa.int32()), pa.array(self.weights, pa.float32()))
        values = pa.StructArray.from_arrays(arrays, fields=list(_TYPE.value_type))
        return pa.ListArray.from_arrays(pa.array(self.starts, pa.int32()), values)

    @classmethod
    def from_column(cls, column: pa.ChunkedArray) -> "Neighbours":
        """Of a catalogue's table, whose rows they number. Raises `ValueError` for another column."""
        try:
            column = column.cast(_TYPE).combine_chunks()
        except pa.ArrowException as error:
            raise ValueError(
                f"`neighbours` must be {_TYPE}, got {column.type}: rename this attribute, or leave the column out."
            ) from error
        lengths = pc.fill_null(column.value_lengths(), 0).to_numpy()
        values = column.flatten()
        positions, weights = (values.field(name).to_numpy() for name in ("position", "weight"))
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(column):
            raise ValueError(f"`neighbours` must be positions of the {len(column)} items: leave the column out.")
        return cls(np.cumsum([0, *lengths]), positions, weights)
