"""What a loader hands on: the two tables as the raw files have them, and how their items are looked for and seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features
from datasets.fingerprint import generate_random_fingerprint

from ..store import StoreReport


@dataclass(frozen=True)
class SearchColumns:
    """The items' columns that search queries are drawn from, see [`draw_queries`].

    Attributes:
        words (`tuple[str, ...]`): texts or lists of texts, two of which make a query: keywords, genres, colours.
        kind (`str`, *optional*): what the item is: genre, category. Of the title, its telling words.
        detail (`str`, *optional*): what goes with the kind: brand, colour, or a year, which becomes its decade.
        title (`str`, *optional*): its words are asked for one at a time.
    """

    words: tuple[str, ...] = ()
    kind: str | None = None
    detail: str | None = None
    title: str | None = "title"


@dataclass(frozen=True)
class RawTables:
    """Both tables of a public data set, not yet checked.

    Attributes:
        title (`str`): what the data set is called.
        items, interactions (`datasets.Dataset`): as [`make_store`] takes them. An event's `query`, where there is
            one, is the person's own words; the others are drawn later.
        search ([`SearchColumns`]): what queries are drawn from.
        picture_path (`Callable[[str], Path]`, *optional*): where the picture of an item id is or would be.
        picture_urls (`Mapping[str, str]`): where pictures can be downloaded from, by item id.
        report ([`StoreReport`]): rows that did not make it into the tables.
    """

    title: str
    items: Dataset
    interactions: Dataset
    search: SearchColumns
    picture_path: Callable[[str], Path] | None = None
    picture_urls: Mapping[str, str] = field(default_factory=dict)
    report: StoreReport = field(default_factory=StoreReport)


@dataclass(frozen=True)
class Source:
    """Where a public data set comes from, for its card.

    Attributes:
        homepage (`str`): whom to get it from; an address where there is one for all.
        license_name (`str`): its terms in a word, for the Hub.
        license_text (`str`): its terms in a sentence or two.
        columns (`Mapping[str, str]`): what the columns of its own mean; the others are described by the card.
    """

    homepage: str
    license_name: str
    license_text: str
    columns: Mapping[str, str]


def as_dataset(table: pa.Table, features: Features | None = None) -> Dataset:
    """A table as a data set. Its content is not fingerprinted: that takes longer than to read millions of rows."""
    return Dataset(table, info=DatasetInfo(features=features), fingerprint=generate_random_fingerprint())


def safe_name(text: str) -> str:
    """An id as a file name that is no path: whatever is not a letter, a digit, `-`, `_` or `~` is percent-encoded."""
    return quote(text, safe="").replace(".", "%2E")
