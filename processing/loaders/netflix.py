"""Netflix as released with LLMRec (Wei et al., WSDM 2024), https://github.com/HKUDS/LLMRec.

`item_attribute.csv` (no header: id, year, title) and `train.json`, `val.json`, `test.json` (a person's id -> a list of
item ids) are read; posters are looked for as `Netflix_Posters/{id}.jpg`. The release's pickled matrices are never
opened, since a pickle can run any program; they hold what the JSON files do. Its feature files (`image_feat.npy`,
`text_feat.npy`) are not used: the model sees pictures and texts themselves. There are no times: an event's
`timestamp` is its position in the person's lists, training first, then validation, then test.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from ..columns_unimp import Columns
from ..store import StoreReport
from ..table_files import shorten
from .raw import RawTables, SearchColumns, Source, as_dataset, safe_name
from .raw_files import EVENTS, as_columns, read_text

PARTS = ("train", "val", "test")
SEARCH = SearchColumns(kind="title", detail="year")
SOURCE = Source(
    homepage="https://github.com/HKUDS/LLMRec",
    license_name="netflix-prize",
    license_text="The rules of the Netflix Prize: for research that is not commercial, not to be passed on. Posters "
    "belong to their owners.",
    columns={
        "title": "of the film or series",
        "year": "of release",
        "timestamp": "position in the person's list, from 0: the release has no times",
    },
)


def read_netflix(folder: Path) -> RawTables:
    """
    Reads the CSV and JSON files of the release.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if one cannot be read.
    """
    report = StoreReport()
    items = _read_items(folder / "item_attribute.csv", report)
    return RawTables(
        title="Netflix (LLMRec)",
        items=items,
        interactions=_read_events(folder),
        search=SEARCH,
        picture_path=lambda item: folder / "Netflix_Posters" / f"{safe_name(item)}.jpg",
        report=report,
    )


def _read_items(path: Path, report: StoreReport) -> Dataset:
    columns: dict[str, list[Any]] = {Columns.ITEM_ID: [], "title": [], "year": []}
    for number, row in enumerate(csv.reader(io.StringIO(read_text(path), newline="")), start=1):
        if not row or (number == 1 and row[0].strip().lower() == "id"):
            continue
        if len(row) < 3:
            raise ValueError(f"`{path}:{number}` must be an id, a year and a title, but got {shorten(row)}.")
        columns[Columns.ITEM_ID].append(row[0].strip())
        columns["title"].append(",".join(row[2:]).strip() or None)  # commas of a title are not always quoted
        columns["year"].append(_year(row[1], report))
    return as_dataset(pa.table({**columns, "year": pa.array(columns["year"], pa.int64())}))


def _year(text: str, report: StoreReport) -> int | None:
    try:
        year = float(text)  # 1999.0 where a table with gaps was written
    except ValueError:
        year = math.nan
    if abs(year) < 10_000:  # false for what is not a number
        return int(year)
    if text.strip().lower() not in ("", "nan", "null"):
        report.change("items: `year` is no year and is now missing", [text])
    return None


def _read_events(folder: Path) -> Dataset:
    lists: dict[str, list[Any]] = {}
    for part in PARTS:
        for person, items in _read_part(folder / f"{part}.json").items():
            lists.setdefault(person, []).extend(items)
    rows = [(person, str(item), place) for person, items in lists.items() for place, item in enumerate(items)]
    return as_dataset(as_columns(rows, EVENTS, folder))


def _read_part(path: Path) -> dict[str, list[Any]]:
    try:
        lists = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` is not JSON: {error}") from error
    if not isinstance(lists, dict) or not all(isinstance(items, list) for items in lists.values()):
        raise ValueError(f"`{path}` must be an object of person: list of items, but got {shorten(lists)}.")
    return lists
