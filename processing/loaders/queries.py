"""Search queries for data sets that have none: the words somebody might look for an item with.

A query is made from the item asked for and from nothing else, so it tells nothing of the person or of other events.
Of the events without a query of their own,

- 40% ask for two of the item's words, such as "heist prison",
- 30% for its kind and a detail, such as "comedy 1990s" or "nail polish opi",
- 30% for one telling word of its title, where the title has more than one: a whole title would make search trivial.

A way that an item has nothing for passes its share to the next one. Which way and which words is drawn from the seed,
the person and the item alone: the same event gets the same query, whatever else is in the table.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..columns_unimp import Columns
from ..store import as_table
from .core import codes
from .raw import SearchColumns, as_dataset

SHARES = (0.4, 0.3, 0.3)  # of two words, kind and detail, a word of the title
_ROWS = 1 << 20  # events drawn for at a time

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_COMMON_WORDS = (
    "a an and are as at be but by for from has have how i if in into is it its me my no not of on or our so than that "
    "the their them then there they this to up was we were what when where who why will with you your all any can "
    "der die das und les des une del los las pack set ounce ounces fluid count inch new"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_NOTHING = frozenset(("", "unknown", "undefined", "other", "none", "n/a"))


def telling_words(text: str | None) -> list[str]:
    """The words of a text that a search could use, in order and once each: not common ones, numbers or letters."""
    words = (word.lower() for word in _WORD.findall(text or ""))
    return list(dict.fromkeys(w for w in words if len(w) > 2 and w not in _COMMON and not w[0].isdigit()))


def draw_queries(interactions: Dataset, items: Dataset, search: SearchColumns, seed: int = 0) -> Dataset:
    """
    Fills in the queries of the events that have none.

    Args:
        interactions (`datasets.Dataset`): events of a [`Store`].
        items (`datasets.Dataset`): the items of the store.
        search ([`SearchColumns`]): the items' columns to draw from.
        seed (`int`): another one draws other queries.

    Returns:
        `datasets.Dataset`: the events with `query`, `None` only where an item has nothing to ask for. Without one
        query in all there is no such column.
    """
    events, catalog = as_table(interactions), as_table(items)
    (users, people), (items_used, used) = (codes(events[name]) for name in (Columns.USER_ID, Columns.ITEM_ID))
    state = _mix(_hashes(people, seed)[users]) ^ _hashes(used, seed)[items_used]
    positions = pc.index_in(used, value_set=catalog[Columns.ITEM_ID]).to_numpy()[items_used]
    candidates = _candidates(catalog, search)
    parts = [
        _draw(candidates, positions[start : start + _ROWS], _Draws(state[start : start + _ROWS]))
        for start in range(0, len(events), _ROWS)
    ]
    queries = pa.chunked_array(parts, pa.string())
    if Columns.QUERY in events.column_names:
        queries = pc.coalesce(events[Columns.QUERY], queries)
        events = events.drop_columns([Columns.QUERY])
    if queries.null_count < len(queries):
        events = events.append_column(Columns.QUERY, queries)
    return as_dataset(events)


class _Draws:
    """Even random numbers for every event; each call draws anew."""

    def __init__(self, state: np.ndarray) -> None:
        self.state = state

    def share(self) -> np.ndarray:
        """A number from 0 to 1 an event."""
        self.state = _mix(self.state)
        return (self.state >> np.uint64(11)).astype(np.float64) / 2.0**53

    def below(self, limits: np.ndarray) -> np.ndarray:
        """A whole number under each limit, 0 where the limit is 0 or less."""
        return (self.share() * np.maximum(limits, 1)).astype(np.int64)


def _hashes(texts: pa.Array, seed: int) -> np.ndarray:
    """A number a text, from the text and the seed alone."""
    key = seed.to_bytes(8, "little", signed=True)
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts.to_pylist())
    return np.frombuffer(digests, np.uint64)


def _mix(state: np.ndarray) -> np.ndarray:
    """The step of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on all of the one before."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


class _Lists:
    """A list of texts an item, flat, so that millions of them are drawn from at once."""

    def __init__(self, lists: Iterable[list[str]]) -> None:
        lists = list(lists)
        self.counts = np.fromiter(map(len, lists), np.int64, len(lists))
        self.starts = np.cumsum(self.counts) - self.counts
        self.texts = pa.array([text for texts in lists for text in texts], pa.string())

    def take(self, items: np.ndarray, places: np.ndarray) -> pa.Array:
        return self.texts.take(pa.array(self.starts[items] + places))


def _candidates(catalog: pa.Table, search: SearchColumns) -> tuple[_Lists, _Lists, _Lists, _Lists]:
    """Words, kinds, details and words of the title, by item."""
    columns = set(catalog.column_names)

    def texts(names: Iterable[str | None]) -> list[list[str]]:
        found = [_phrases(catalog[name].to_pylist(), name == search.title) for name in names if name in columns]
        rows = zip(*found, strict=True) if found else [()] * len(catalog)
        return [list(dict.fromkeys(itertools.chain(*row))) for row in rows]

    titles = [words if len(words) > 1 else [] for words in texts([search.title])]
    return (
        _Lists(texts(search.words)),
        _Lists(texts([search.kind])),
        _Lists(texts([search.detail])),
        _Lists(titles),
    )


def _phrases(values: list[str | list[str] | int | None], is_title: bool) -> list[list[str]]:
    if is_title:
        return [telling_words(value) for value in values]
    return [_decade(value) if isinstance(value, int) else _clean(value or []) for value in values]


def _decade(year: int) -> list[str]:
    return [f"{year // 10 * 10}s"]


def _clean(value: str | list[str]) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    phrases = (" ".join(text.lower().split()) for text in texts if text)
    return [phrase for phrase in phrases if phrase not in _NOTHING]


def _draw(lists: tuple[_Lists, _Lists, _Lists, _Lists], items: np.ndarray, draws: _Draws) -> pa.Array:
    words, kinds, details, titles = lists
    share = draws.share()
    firsts, gaps = draws.below(words.counts[items]), draws.below(words.counts[items] - 1)
    seconds = (firsts + 1 + gaps) % np.maximum(words.counts[items], 1)
    kind, detail, word = (draws.below(found.counts[items]) for found in (kinds, details, titles))
    possible = (
        words.counts[items] > 1,
        (kinds.counts[items] > 0) & (details.counts[items] > 0),
        titles.counts[items] > 0,
    )
    way = _ways(np.searchsorted(np.cumsum(SHARES[:-1]), share, side="right"), possible)
    two, pair, one = (way == n for n in range(3))
    made = np.full(len(items), -1)
    parts = []
    for rows, texts in (
        (two, (words.take(items[two], firsts[two]), words.take(items[two], seconds[two]))),
        (pair, (kinds.take(items[pair], kind[pair]), details.take(items[pair], detail[pair]))),
        (one, (titles.take(items[one], word[one]),)),
    ):
        made[rows] = np.arange(rows.sum()) + sum(map(len, parts))
        parts.append(pc.binary_join_element_wise(*texts, " "))
    return pa.concat_arrays(parts).take(pa.array(made, mask=made < 0))


def _ways(way: np.ndarray, possible: tuple[np.ndarray, ...]) -> np.ndarray:
    """The way drawn, or the next one round that the item has words for; -1 where there is none."""
    found = np.full(len(way), -1)
    for turn in reversed(range(len(possible))):
        tried = (way + turn) % len(possible)
        works = np.choose(tried, possible)
        found = np.where(works, tried, found)
    return found
