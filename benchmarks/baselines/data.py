"""The rows of a split as arrays of whole numbers, made once and read by every baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
from datasets import Dataset

from unimp.processing import Columns
from unimp.processing.splits import Split


@dataclass(frozen=True)
class Events:
    """Rows of events, end to end: row r is `items[offsets[r] : offsets[r + 1]]`, oldest first.

    Attributes:
        users (`np.ndarray` of shape `(num_rows,)`): number of the user, -1 for one that is not in training.
        items (`np.ndarray` of shape `(num_events,)`): numbers of the items.
        offsets (`np.ndarray` of shape `(num_rows + 1,)`): where the rows begin, and where the last one ends.
        ratings (`np.ndarray` of shape `(num_events,)`): NaN where there is none.
        texts (`np.ndarray` of shape `(num_events,)`): explanations as objects, `None` where there is none.
    """

    users: np.ndarray
    items: np.ndarray
    offsets: np.ndarray
    ratings: np.ndarray
    texts: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def row_of_event(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def age(self) -> np.ndarray:
        """How many events of the row come after each one, `(num_events,)`."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.items))

    @property
    def last(self) -> np.ndarray:
        """Where the last event of each row is, `(num_rows,)`."""
        if not self.lengths.all():
            raise ValueError("`rows` need at least one event each to be the target, but got an empty one.")
        return self.offsets[1:] - 1

    def rows(self, start: int, stop: int) -> "Events":
        """Some of the rows, as views."""
        offsets = self.offsets[start : stop + 1]
        events = slice(offsets[0], offsets[-1])
        return Events(
            self.users[start:stop], self.items[events], offsets - offsets[0], self.ratings[events], self.texts[events]
        )

    def select(self, kept: np.ndarray) -> "Events":
        """The rows that are true in `kept`, `(num_rows,)`."""
        events = np.repeat(kept, self.lengths)
        offsets = np.append(0, np.cumsum(self.lengths[kept]))
        return Events(self.users[kept], self.items[events], offsets, self.ratings[events], self.texts[events])

    def histories(self) -> "Events":
        """The rows without their last event."""
        keep = np.ones(len(self.items), dtype=bool)
        keep[self.last] = False
        offsets = self.offsets - np.arange(len(self.offsets))
        return Events(self.users, self.items[keep], offsets, self.ratings[keep], self.texts[keep])

    def matrix(self, num_items: int, decay: float = 1.0) -> scipy.sparse.csr_array:
        """Rows by items, float32: the sum of `decay ** age` over the row's events of the item."""
        weights = (decay ** self.age.astype(np.float32)).astype(np.float32)
        keep = weights > 1e-6  # what is that old changes no score that could be told apart
        place = (self.row_of_event[keep], self.items[keep])
        return scipy.sparse.coo_array((weights[keep], place), shape=(len(self), num_items)).tocsr()


@dataclass(frozen=True)
class TrainingData:
    """What a baseline may learn from.

    Attributes:
        events (`Events`): the training rows, one a user.
        num_users (`int`): users are 0 to `num_users - 1`.
        num_items (`int`): items of the catalogue, those without a training event included.
        features (`Mapping[str, np.ndarray]`): by kind ("text", "picture"), `(num_items, size)`; zeros where an item
            has none.
    """

    events: Events
    num_users: int
    num_items: int
    features: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def popularity(self) -> np.ndarray:
        """Training events of each item, `(num_items,)`."""
        return np.bincount(self.events.items, minlength=self.num_items)

    def binary_matrix(self) -> scipy.sparse.csr_array:
        """Users by items, float32: 1 where the user has the item."""
        matrix = self.events.matrix(self.num_items)
        matrix.data[:] = 1
        return matrix

    def unit_features(self, kinds: Sequence[str]) -> np.ndarray:
        """The features of these kinds side by side, each of length 1 (or 0), float32."""
        if missing := [kind for kind in kinds if kind not in self.features]:
            raise ValueError(f"`features` has no {missing[0]!r}, only {sorted(self.features)}; give one row an item.")
        return np.concatenate([unit(np.asarray(self.features[kind], np.float32)) for kind in kinds], axis=1)


@dataclass(frozen=True)
class EncodedSplit:
    """A split as arrays. `validation` and `test` are whole rows, the last event of each being the target."""

    train: TrainingData
    validation: Events
    test: Events


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def encode_split(
    split: Split, item_ids: Sequence[str], features: Mapping[str, np.ndarray] | None = None
) -> EncodedSplit:
    """Numbers the users of `train` in order of their rows, and the items in order of `item_ids`.

    Args:
        split ([`Split`]): train, validation and test.
        item_ids (`Sequence[str]`): the whole catalogue, items without any event included.
        features (`Mapping[str, np.ndarray]`, *optional*): see [`TrainingData`], rows in order of `item_ids`.

    Raises:
        ValueError: if an event's item is not in `item_ids`, or features have another number of rows.
    """
    for kind, matrix in (features or {}).items():
        if len(matrix) != len(item_ids):
            raise ValueError(f"`features[{kind!r}]` has {len(matrix)} rows for {len(item_ids)} items; give one each.")
    items = {item_id: number for number, item_id in enumerate(item_ids)}
    users = {user_id: number for number, user_id in enumerate(dict.fromkeys(split.train[Columns.USER_ID]))}
    train, validation, test = (
        encode_events(rows, items, users) for rows in (split.train, split.validation, split.test)
    )
    return EncodedSplit(TrainingData(train, len(users), len(items), features or {}), validation, test)


def encode_events(rows: Dataset, items: Mapping[str, int], users: Mapping[str, int]) -> Events:
    """Rows as from [`sequences`] with their ids replaced by numbers; a user that is not in `users` is -1."""
    histories = rows[Columns.ITEM_ID][:]
    try:
        flat = np.array([items[item_id] for history in histories for item_id in history], dtype=np.int64)
    except KeyError as error:
        raise ValueError(f"`item_ids` lacks {error}, an item of an event; give the whole catalogue.") from error
    offsets = np.append(0, np.cumsum([len(history) for history in histories], dtype=np.int64))
    numbers = np.array([users.get(user_id, -1) for user_id in rows[Columns.USER_ID]], dtype=np.int64)
    ratings = _flat(rows, Columns.RATING, len(flat)).astype(np.float64)  # `None` becomes NaN
    return Events(numbers, flat, offsets, ratings, _flat(rows, Columns.EXPLANATION, len(flat)))


def _flat(rows: Dataset, column: str, count: int) -> np.ndarray:
    """The values of a column of lists end to end, as objects; `None` everywhere if there is no such column."""
    values = np.full(count, None, dtype=object)
    if column in rows.column_names:
        values[:] = [value for row in rows[column] for value in row]
    return values
