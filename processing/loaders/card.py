"""The card of a prepared data set: what it holds, where it comes from and what is not in it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData

from ..columns_unimp import Columns
from ..dataset_card import CARD_FILE, license_fields, stated_license
from ..store import Store, as_table
from .raw import Source

_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
_LARGEST = "10M<n<100M"
# What the Hub shows as tables.
CONFIGS = [
    {"config_name": "interactions", "data_files": "interactions.parquet", "default": True},
    {"config_name": "items", "data_files": "items.parquet"},
]
_MEANINGS = {
    Columns.USER_ID: "the person",
    Columns.ITEM_ID: "the item",
    Columns.TIMESTAMP: "when, in seconds since 1970 (UTC)",
    Columns.IMAGE: "picture of the item",
    Columns.RATING: "what the person gave the item",
    Columns.EXPLANATION: "what the person wrote about the item",
    Columns.QUERY: "words the item could be looked for with, drawn from its attributes",
}


def write_dataset_card(store: Store, folder: Path, title: str, source: Source, settings: Mapping[str, object]) -> None:
    """
    Writes `README.md` with the front matter from which the Hub shows both tables.

    Args:
        store ([`Store`]): what the folder holds.
        folder (`Path`): of the two parquet files.
        title (`str`): of the data set.
        source ([`Source`]): whose it is.
        settings (`Mapping[str, object]`): the options it was prepared with.
    """
    dataset_card(store, title, source, settings).save(folder / CARD_FILE)


def dataset_card(
    store: Store, title: str, source: Source | None = None, settings: Mapping[str, object] | None = None
) -> DatasetCard:
    """
    The card of a data set; of one that was not prepared from raw files it says nothing of `source`, and the licence is
    that of `store.card`.
    """
    data = DatasetCardData(
        **(_license(source) if source else license_fields(store.card)),
        task_categories=["other"],
        tags=["recommendation", "unimp"],
        size_categories=_size(len(store.interactions)),
        pretty_name=title,
        configs=CONFIGS,
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{_text(store, title, source, settings or {})}")


def _license(source: Source) -> dict[str, str | None]:
    link = source.homepage if source.homepage.startswith("https:") else None
    return {"license": "other", "license_name": source.license_name, "license_link": link}


_QUERIES = """
A query that nobody wrote is drawn from what describes the item, from the seed, the person and the item alone: two of
its words, its kind with a detail, or one word of its title.
"""


def _size(rows: int) -> str:
    return next((name for limit, name in _SIZES.items() if rows < limit), _LARGEST)


def _text(store: Store, title: str, source: Source | None, settings: Mapping[str, object]) -> str:
    made = ", ".join(f"`{name}` {value}" for name, value in settings.items())
    origin = f" Made from the raw files\n({source.homepage}) with {made}." if source else ""
    return f"""# {title}

People, items and what people did with them, as the two tables of UniMP.{origin}

```
unimp train --dataset FOLDER --output_dir MODEL
```

## Counts

{_table(("", "count"), _counts(store))}

## Columns

{_table(("table", "column", "meaning"), _columns(store, source))}
{_QUERIES if source else ""}
## What is not in it

{_losses(store)}

## Terms

{source.license_text if source else _terms(store)}
"""


def _terms(store: Store) -> str:
    licence = stated_license(store.card)
    return f"Licence: {licence}." if licence else "Not stated here; a `license` in the front matter states them."


def _counts(store: Store) -> list[tuple[object, ...]]:
    items, events = as_table(store.items), as_table(store.interactions)
    times = pc.min_max(events[Columns.TIMESTAMP]).as_py()
    counts = {
        "people": len(pc.unique(events[Columns.USER_ID])),
        "items": len(items),
        "items with a picture": num_present(store.items, Columns.IMAGE),
        "events": len(events),
        **{f"events with `{name}`": num_present(store.interactions, name) for name in Columns.EVENT_OPTIONAL},
    }
    rows = [(what, f"{count:,}") for what, count in counts.items() if count]
    return [*rows, ("first event", _date(times["min"])), ("last event", _date(times["max"]))]


def num_present(table: Dataset, column: str) -> int:
    """Rows of a table that have a value in a column."""
    if column not in table.column_names:
        return 0
    values = as_table(table)[column]
    return len(values) - values.null_count


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # beyond the years that Python writes
        return f"{seconds} s"


def _columns(store: Store, source: Source | None) -> list[tuple[object, ...]]:
    meanings = {**_MEANINGS, **(source.columns if source else {})}
    return [
        (name, f"`{column}`", meanings.get(column, "as in the raw files" if source else "an attribute"))
        for name, table in (("interactions", store.interactions), ("items", store.items))
        for column in table.column_names
    ]


def _losses(store: Store) -> str:
    report = store.report
    if not report:
        return "Every row of the raw files is in it."
    rows = [
        (word, f"{count:,}", reason)
        for word, counts in (("left out", report.skipped), ("altered", report.changed))
        for reason, count in counts.items()
    ]
    return _table(("", "rows", "why"), rows)


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    """Text that stays in its cell: names of columns and reasons may hold anything."""
    return " ".join(str(value).replace("<", "&lt;").replace("|", "\\|").split())
