"""From a table of events to people's histories, and which part of them is for training, validation and test."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .catalog_unimp import flatten_value
from .columns_unimp import Columns
from .store import Store, as_table, require_columns

logger = logging.getLogger(__name__)

CHOICES = "leave_one_out, leave_last_N (such as leave_last_10), user_holdout, cold_items, new_domain:COLUMN=VALUE"


@dataclass(frozen=True)
class Split:
    """Histories for the three parts, each a data set as from [`sequences`].

    Attributes:
        name (`str`): the protocol, to be written beside every figure; what [`make_split`] makes it of.
        train (`datasets.Dataset`): every event may be trained on.
        validation (`datasets.Dataset`): the last event of a row is the target, everything before it is history.
        test (`datasets.Dataset`): as in validation.
        new_items (`tuple[str, ...]`): ids of items that may not be trained with, not even by what they are; a model
            gets them after training.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    new_items: tuple[str, ...] = ()


def make_split(store: Store, name: str, seed: int = 0) -> Split:
    """The split of a name, as `--split` has it.

    Args:
        store ([`Store`]): its events and, for `new_domain`, its items' attributes.
        name (`str`): `leave_one_out`, `leave_last_N` (such as `leave_last_10`), `user_holdout`, `cold_items` or
            `new_domain:COLUMN=VALUE` (such as `new_domain:category=Toys`).
        seed (`int`, *optional*, defaults to 0): of all that is drawn. Who trains and who evaluates must give the same.

    Raises:
        ValueError: if there is no such split, and as in the function of that name.
    """
    if name == "leave_one_out":
        return leave_one_out(store.interactions, seed)
    if last := re.fullmatch(r"leave_last_([1-9][0-9]*)", name):
        return leave_last_n(store.interactions, int(last[1]), seed)
    if name == "user_holdout":
        return user_holdout(store.interactions, seed=seed)
    if name == "cold_items":
        return cold_items(store.interactions, seed=seed)
    if domain := re.fullmatch(r"new_domain:([^=]+)=(.+)", name):
        return new_domain(store, domain[1], domain[2], seed)
    raise ValueError(f"`split` must be one of {CHOICES}, but got {name!r}.")


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

    [`leave_last_n`] of one event, with its arguments and errors: rows of `test` are whole histories, rows of
    `validation` lack the last event, rows of `train` the last two.
    """
    return replace(leave_last_n(interactions, 1, seed), name="leave_one_out")


def leave_last_n(interactions: Dataset, n: int, seed: int = 0) -> Split:
    """Holds out each user's last events, so many for test and as many before those for validation.

    Of a user of L events that is n, and at most a third of L. Every held-out event has a row of its own, which ends
    with it and holds all that came before it: a user has several rows, the earliest event first. Users of fewer than
    three events have nothing to spare: all their events are in `train` only, and their number is logged.

    Args:
        interactions (`datasets.Dataset`): the events of a [`Store`].
        n (`int`): most events of a user that are held out for test.
        seed (`int`, *optional*, defaults to 0): of the order of events with the same time.

    Raises:
        ValueError: if n is less than 1 or no user has three events, and as in [`sequences`].
    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1, but got {n}.")
    rows = as_table(sequences(interactions, seed))
    lengths = _lengths(rows)
    if lengths.max() < 3:
        raise ValueError(
            f"`interactions` needs a user of at least 3 events, but the most is {lengths.max()}; add more."
        )
    _log_short(int((lengths < 3).sum()), 3)
    held_out = np.minimum(n, lengths // 3)  # 0 for users of fewer than three events
    user = np.repeat(np.arange(len(lengths)), held_out)
    # 1 to n within each user.
    step = 1 + np.arange(len(user)) - np.repeat(np.cumsum(held_out) - held_out, held_out)
    return Split(
        name=f"leave_last_{n}",
        train=Dataset(_first(rows, np.arange(len(lengths)), lengths - 2 * held_out)),
        validation=Dataset(_first(rows, user, (lengths - 2 * held_out)[user] + step)),
        test=Dataset(_first(rows, user, (lengths - held_out)[user] + step)),
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
    testable = np.flatnonzero(_lengths(as_table(rows)) >= 2)
    if len(testable) < 3:
        raise ValueError(f"`interactions` needs 3 users of at least 2 events, but got {len(testable)}; add more.")
    _log_short(len(rows) - len(testable), 2)
    shuffled = np.random.default_rng(seed).permutation(testable)
    num_test = _share(fractions[2], len(testable), most=len(testable) - 2)
    num_validation = _share(fractions[1], len(testable), most=len(testable) - num_test - 1)
    validation, test, _ = np.split(shuffled, [num_validation, num_validation + num_test])
    train = np.setdiff1d(np.arange(len(rows)), np.append(validation, test))
    return Split("user_holdout", *(rows.select(np.sort(part)) for part in (train, validation, test)))


def cold_items(interactions: Dataset, fraction: float = 0.1, n: int = 10, seed: int = 0) -> Split:
    """Tests on items that nobody was trained on: [`leave_last_n`] with some of the items (`new_items`) held out.

    The items are drawn by chance. `train` and `validation` lose every event with one of them. `test` keeps the rows
    whose target is one of them; their histories lose the others. Rows that are left without any history are dropped,
    and counted in the log.

    Args:
        interactions (`datasets.Dataset`): the events of a [`Store`].
        fraction (`float`, *optional*, defaults to 0.1): share of the items that occur; at least one is drawn.
        n (`int`, *optional*, defaults to 10): see [`leave_last_n`].
        seed (`int`, *optional*, defaults to 0): of the items, and of the order of events with the same time.

    Raises:
        ValueError: if the fraction is not between 0 and 1 or no row of test is left, and as in [`leave_last_n`].
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be between 0 and 1, but got {fraction}.")
    base = leave_last_n(interactions, n, seed)
    items = np.sort(np.array(interactions.unique(Columns.ITEM_ID), dtype=object))  # whatever the order of the log
    cold = np.random.default_rng(seed).permutation(items)[: max(1, round(fraction * len(items)))]
    train, validation, test = (as_table(part) for part in (base.train, base.validation, base.test))
    old_targets = np.flatnonzero(~_last_is_one_of(validation, cold))
    new_targets = np.flatnonzero(_last_is_one_of(test, cold))
    parts = {
        "train": _with_events(_without(train, cold), at_least=1),
        "validation": _with_events(_without(validation.take(old_targets), cold), at_least=2),
        "test": _with_events(_without(test.take(new_targets), cold, keep_last=True), at_least=2),
    }
    logger.info("%s items are held out.", f"{len(cold):,}")
    if dropped := len(new_targets) - len(parts["test"]):
        logger.warning("%s rows of test have no history without the held-out items: left out.", f"{dropped:,}")
    if not len(parts["test"]):
        raise ValueError(
            f"`interactions` has nobody who chose one of the {len(cold)} held-out items after another one; raise "
            "`fraction` or `n`, or add events."
        )
    return Split("cold_items", **parts, new_items=tuple(sorted(cold)))


def new_domain(store: Store, column: str, value: str, seed: int = 0) -> Split:
    """Tests on items and users that were not trained on: those of one domain, such as a category or a shop.

    The domain (`new_items`) is the items whose attribute `column` is `value`, or is a list with it. A fifth of the
    users with at least two events in the domain, by chance, are for test: with these events alone. Of the others with
    at least two events outside of it a tenth are for validation, and all the rest for training: with their events
    outside of it.

    Args:
        store ([`Store`]): the items and events.
        column (`str`): an attribute; two data sets in one folder need a column that tells them apart.
        value (`str`): as text, as a person would write it: `2001` for a number, `yes` for a truth.
        seed (`int`, *optional*, defaults to 0): of who goes where, and of the order of events with the same time.

    Raises:
        ValueError: if there is no such column, no item or every item has the value, or there are too few users, and as
            in [`sequences`].
    """
    domain = _items_with(store.items, column, value)
    rows = as_table(sequences(store.interactions, seed))
    outside = set(as_table(store.items)[Columns.ITEM_ID].to_pylist()).difference(domain)
    inside, old = _without(rows, list(outside)), _without(rows, domain)
    rng = np.random.default_rng(seed)
    testable = rng.permutation(np.flatnonzero(_lengths(inside) >= 2))
    test = testable[: max(1, round(0.2 * len(testable)))]
    others = rng.permutation(np.setdiff1d(np.flatnonzero(_lengths(old) >= 2), test))
    validation = others[: max(1, round(0.1 * len(others)))]
    if not len(test) or len(others) < 2:
        raise ValueError(
            f"`interactions` needs a user of at least 2 events with items whose `{column}` is {value!r}, and 2 others "
            f"of at least 2 events with other items, but got {len(testable)} and {len(others)}; add more."
        )
    train = np.setdiff1d(np.arange(len(rows)), np.concatenate([test, validation]))
    return Split(
        name=f"new_domain:{column}={value}",
        train=_with_events(old.take(train), at_least=1),
        validation=Dataset(old.take(np.sort(validation))),
        test=Dataset(inside.take(np.sort(test))),
        new_items=tuple(domain),
    )


def _items_with(items: Dataset, column: str, value: str) -> list[str]:
    """Ids of the items whose attribute is a value, or is a list with it."""
    if column == Columns.IMAGE or column not in items.column_names:
        attributes = [c for c in items.column_names if c not in (Columns.IMAGE, Columns.ITEM_ID)]
        raise ValueError(f"`items` has no attribute {column!r}: got {', '.join(map(repr, attributes))}.")
    table = as_table(items)
    values = [
        {flatten_value(entry, max_words=100) for entry in (entries if isinstance(entries, list) else [entries])}
        for entries in table[column].to_pylist()
    ]
    found = [
        item_id for item_id, have in zip(table[Columns.ITEM_ID].to_pylist(), values, strict=True) if value in have
    ]
    if not found or len(found) == len(items):
        known = sorted(set().union(*values) - {""})
        raise ValueError(
            f"`{column}` of `items` must be {value!r} for some items and not for all, but is for {len(found)} of "
            f"{len(items)}; it has values such as {', '.join(map(repr, known[:5]))}."
        )
    return found


def _share(fraction: float, total: int, most: int) -> int:
    return min(max(1, round(fraction * total)), most)


def _log_short(count: int, needed: int) -> None:
    if count:
        logger.warning("%s users have fewer than %s events and are only trained on.", f"{count:,}", needed)


# Tables of rows with lists of events


def _event_columns(rows: pa.Table) -> list[str]:
    return [name for name in rows.column_names if name != Columns.USER_ID]


def _lengths(rows: pa.Table) -> np.ndarray:
    return rows[Columns.ITEM_ID].combine_chunks().value_lengths().to_numpy()


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int32()), values)


def _first(rows: pa.Table, index: np.ndarray, counts: np.ndarray) -> pa.Table:
    """Row i of the result is the first `counts[i]` events of row `index[i]`."""
    lengths = _lengths(rows)
    starts = np.cumsum(lengths) - lengths
    first = np.cumsum(counts) - counts  # where a row of the result begins
    events = pa.array(np.arange(counts.sum()) + np.repeat(starts[index] - first, counts))
    columns = {Columns.USER_ID: rows[Columns.USER_ID].take(index)}
    for name in _event_columns(rows):
        columns[name] = _lists(rows[name].combine_chunks().flatten().take(events), counts)
    return pa.table(columns)


def _last_is_one_of(rows: pa.Table, items: Sequence[str]) -> np.ndarray:
    """Whether a row's last event is with one of some items; rows have at least one event."""
    last = np.cumsum(_lengths(rows)) - 1
    return _is_one_of(rows, items)[last]


def _is_one_of(rows: pa.Table, items: Sequence[str]) -> np.ndarray:
    """Whether each of all the events is with one of some items."""
    events = rows[Columns.ITEM_ID].combine_chunks().flatten()
    return pc.is_in(events, value_set=pa.array(items, events.type)).to_numpy(zero_copy_only=False)


def _without(rows: pa.Table, items: Sequence[str], keep_last: bool = False) -> pa.Table:
    """The rows without the events with some items, all but the last event of each if that is to be kept."""
    lengths = _lengths(rows)
    keep = ~_is_one_of(rows, items)
    if keep_last:
        keep[np.cumsum(lengths) - 1] = True
    counts = np.bincount(np.repeat(np.arange(len(rows)), lengths)[keep], minlength=len(rows))
    columns = {Columns.USER_ID: rows[Columns.USER_ID]}
    for name in _event_columns(rows):
        columns[name] = _lists(rows[name].combine_chunks().flatten().filter(pa.array(keep)), counts)
    return pa.table(columns)


def _with_events(rows: pa.Table, at_least: int) -> Dataset:
    """The rows of so many events."""
    return Dataset(rows.filter(pa.array(_lengths(rows) >= at_least)))
