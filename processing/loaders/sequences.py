"""The plain sequence format of many papers: a line a person, and the items' texts.

`user_sequence.txt` has a person's id and then item ids in order of time, between spaces. `items.jsonl` has an object
a line with `asin`, `title` and `attributes` (a list of texts: brand and categories). There are no times, ratings or
pictures: an event's `timestamp` is its position in the line, from 0.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from ..columns_unimp import Columns
from ..store import StoreReport
from ..table_files import json_column, read_json_rows, require_utf8
from .raw import RawTables, SearchColumns, Source, as_dataset
from .raw_files import EVENTS, as_columns

SEARCH = SearchColumns(words=("attributes",), kind="attributes")
SOURCE = Source(
    homepage="their publisher",
    license_name="unknown",
    license_text="That of the data set behind the sequences.",
    columns={
        "title": "of the item",
        "attributes": "brand and categories",
        "timestamp": "position in the person's line, from 0: the files have no times",
    },
)


def read_sequences(folder: Path) -> RawTables:
    """
    Reads `user_sequence.txt` and `items.jsonl` of a folder.

    Raises:
        FileNotFoundError: if one of the two is missing.
        ValueError: if one cannot be read, or has items without `asin`.
    """
    report = StoreReport()
    items, interactions = _read_items(folder / "items.jsonl"), _read_events(folder / "user_sequence.txt", report)
    return RawTables("Sequences", items, interactions, SEARCH, report=report)


def _read_items(path: Path) -> Dataset:
    rows = read_json_rows(path)
    if not rows or not all("asin" in row for row in rows):
        raise ValueError(f"`{path}` must have `asin` in every line; add it.")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: json_column([row.get(name) for row in rows], name, path) for name in names}
    return as_dataset(pa.table({Columns.ITEM_ID: columns.pop("asin"), **columns}))


def _read_events(path: Path, report: StoreReport) -> Dataset:
    require_utf8(path)
    people = list(_read_people(path))
    report.skip("people: no item in their line", [person for person, items in people if not items])
    rows = [(person, item, place) for person, items in people for place, item in enumerate(items)]
    return as_dataset(as_columns(rows, EVENTS, path))


def _read_people(path: Path) -> Iterator[tuple[str, list[str]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                person, *items = line.split()
                yield person, items
