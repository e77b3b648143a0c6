"""From a table of events to people's histories, and which part of them is for training, validation and test."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .columns_unimp import Columns
from .store import as_table, require_columns

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Histories for the three parts, each a data set as from [`sequences`].

    Attributes:
        name (`str`): the protocol, to be written beside every figure.
        train (`datasets.Dataset`): every event may be trained on.
        validation (`datasets.Dataset`): the last event of a row is the target, everything before it is history.
        test (`datasets.Dataset`): as in validation.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset


def sequences(interactions: Dataset, seed: int = 0) -> Dataset:
    """Gathers the events of each user in order of time.

    Events of a user with the same time come in random order: by item id or by row, the order would tell things about
    the next item that no recommender can know, such as that a log was sorted by rating.

    Args:
        interactions (`datasets.Dataset`): the events of a [`Store`].
        seed (`int`, *optional*, defaults to 0): of the order of events with the same time.

    Returns:
        `datasets.Dataset`: one row a user, in order of first appearance: `user_id`, and as lists of equal length,
        oldest event first, `item_id`, `timestamp` and those of `rating`, `explanation`, `query`, `behavior` that are
        there.

    Raises:
        ValueError: if a required column is missing or there is no event.
    """
    require_columns(interactions, "interactions", Columns.INTERACTIONS_REQUIRED)
    if not len(interactions):
        raise ValueError("`interactions` is empty: got 0 rows; give it at least one.")
    table = as_table(interactions)
    users = table[Columns.USER_ID].combine_chunks().dictionary_encode()  # codes in order of first appearance
    codes = users.indices.to_numpy()
    shuffle = np.random.default_rng(seed).random(len(codes))
    order = np.lexsort((shuffle, table[Columns.TIMESTAMP].to_numpy(), codes))
    columns = [Columns.ITEM_ID, Columns.TIMESTAMP, *(c for c in Columns.EVENT_OPTIONAL if c in table.column_names)]
    lengths = np.bincount(codes)
    lists = {column: _lists(table[column].combine_chunks().take(pa.array(order)), lengths) for column in columns}
    return Dataset(pa.table({Columns.USER_ID: users.dictionary, **lists}))


def leave_one_out(interactions: Dataset, seed: int = 0) -> Split:
    """Holds out each user's last two events: the very last for test, the one before it for validation.

    Rows of `test` are whole histories, rows of `validation` lack the last event, rows of `train` the last two. Users
    of fewer than three events have nothing to spare: all their events are in `train` only, and their number is logged.

    Args:
        interactions (`datasets.Dataset`): the events of a [`Store`].
        seed (`int`, *optional*, defaults to 0): of the order of events with the same time.

    Raises:
        ValueError: if no user has three events, and as in [`sequences`].
    """
    rows = sequences(interactions, seed)
    lengths = _lengths(rows)
    long_enough = np.flatnonzero(lengths >= 3)
    if not len(long_enough):
        raise ValueError(
            f"`interactions` needs a user of at least 3 events, but the most is {lengths.max()}; add more."
        )
    _log_short(len(lengths) - len(long_enough), 3)
    test = rows.select(long_enough)
    return Split(
        name="leave_one_out",
        train=_first(rows, np.where(lengths >= 3, lengths - 2, lengths)),
        validation=_first(test, lengths[long_enough] - 1),
        test=test,
    )


def user_holdout(interactions: Dataset, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 42) -> Split:
    """Puts every user, with the whole history, in one of the three parts (the paper's split).

    The fractions are of the users of at least two events, each part gets at least one of them. Users of a single
    event cannot be tested: they are in `train`, and their number is logged.

    Args:
        interactions (`datasets.Dataset`): the events of a [`Store`].
        fractions (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): of train, validation and test, all
            positive, 1 together.
        seed (`int`, *optional*, defaults to 42): of who goes where, and of the order of events with the same time.

    Raises:
        ValueError: if the fractions are no such numbers or fewer than three users have two events, and as in
            [`sequences`].
    """
    if len(fractions) != 3 or not all(f > 0 for f in fractions) or not np.isclose(sum(fractions), 1):
        raise ValueError(f"`fractions` must be three positive numbers that sum to 1, but got {tuple(fractions)}.")
    rows = sequences(interactions, seed)
    testable = np.flatnonzero(_lengths(rows) >= 2)
    if len(testable) < 3:
        raise ValueError(f"`interactions` needs 3 users of at least 2 events, but got {len(testable)}; add more.")
    _log_short(len(rows) - len(testable), 2)
    shuffled = np.random.default_rng(seed).permutation(testable)
    num_test = _share(fractions[2], len(testable), most=len(testable) - 2)
    num_validation = _share(fractions[1], len(testable), most=len(testable) - num_test - 1)
    validation, test, _ = np.split(shuffled, [num_validation, num_validation + num_test])
    train = np.setdiff1d(np.arange(len(rows)), np.append(validation, test))
    return Split("user_holdout", *(rows.select(np.sort(part)) for part in (train, validation, test)))


def _share(fraction: float, total: int, most: int) -> int:
    return min(max(1, round(fraction * total)), most)


def _log_short(count: int, needed: int) -> None:
    if count:
        logger.warning("%s users have fewer than %s events and are only trained on.", f"{count:,}", needed)


def _lengths(rows: Dataset) -> np.ndarray:
    return as_table(rows)[Columns.ITEM_ID].combine_chunks().value_lengths().to_numpy()


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int32()), values)


def _first(rows: Dataset, counts: np.ndarray) -> Dataset:
    """The first `counts[i]` events of each row i."""
    lengths = _lengths(rows)
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    keep = pa.array(position < np.repeat(counts, lengths))
    columns = {name: column.combine_chunks() for name, column in zip(rows.column_names, as_table(rows), strict=True)}
    for name in set(columns) - {Columns.USER_ID}:
        columns[name] = _lists(columns[name].flatten().filter(keep), counts)
    return Dataset(pa.table(columns))
