"""The two tables of a store, read, checked and cleaned once so that nothing behind them has to.

No row is lost in silence: what is left out or altered is counted in the store's report, and logged.
"""

import difflib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, Image
from datasets.fingerprint import generate_random_fingerprint
from huggingface_hub import DatasetCardData

from .catalog_unimp import AVAILABLE
from .columns_unimp import Columns
from .dataset_card import read_card
from .images_unimp import ImageError, resolve_path
from .table_files import read_table, replace_column, shorten

logger = logging.getLogger(__name__)

IMAGE_FOLDER = "images"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
Range = Sequence[float]
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})

# Rows per row group of a written table with pictures: what is in memory at a time.
_ROWS_PER_GROUP = 256
# Columns of events, which an item may not have: a request gives a never-seen item and what was done with it as one.
_EVENT_COLUMNS = (Columns.USER_ID, Columns.TIMESTAMP, *Columns.EVENT_OPTIONAL)
# Seconds since 1970 that end in the year 2100, and days written as numbers (20260503) from 1900 to then.
_LATEST = 4_102_444_800
_EARLIEST_DAY, _LATEST_DAY = 19_000_101, 21_001_231
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass
class StoreReport:
    """What was left out (`skipped`) or altered in a row that was kept (`changed`): reason -> number of rows.

    `examples` holds up to three of the values of each reason. The report is false when nothing happened.
    """

    skipped: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Any]] = field(default_factory=dict)

    def skip(self, reason: str, values: Sequence[Any]) -> None:
        """Counts rows that were left out, one of `values` each."""
        self._count(self.skipped, reason, values)

    def change(self, reason: str, values: Sequence[Any]) -> None:
        """Counts rows that were kept with another value, the old one in `values`."""
        self._count(self.changed, reason, values)

    def _count(self, counts: dict[str, int], reason: str, values: Sequence[Any]) -> None:
        if len(values):
            counts[reason] = counts.get(reason, 0) + len(values)
            shown = self.examples.setdefault(reason, [])
            shown.extend(values[: 3 - len(shown)])

    def __bool__(self) -> bool:
        return bool(self.skipped or self.changed)

    def __str__(self) -> str:
        lines = [
            f"{word} {count:,} {'row' if count == 1 else 'rows'}: {reason} "
            f"(such as {', '.join(map(shorten, self.examples[reason]))})"
            for word, counts in (("left out", self.skipped), ("altered", self.changed))
            for reason, count in counts.items()
        ]
        return "\n".join(lines) or "every row was used as it is"


@dataclass(frozen=True)
class Store:
    """Checked tables, from [`read_store`] or [`make_store`].

    Attributes:
        items (`datasets.Dataset`):
            `item_id` (string, unique), any attributes and, where given, `available` (bool or `None`; `False`: the
            item is never recommended). If any item has a picture, `image` as `datasets.Image(decode=False)`: a
            dictionary of `bytes` and `path` for `load_image`, or `None`.
        interactions (`datasets.Dataset`):
            `user_id` and `item_id` (strings; every item is in `items`), `timestamp` (int64, seconds), and where
            given `rating` (float64, finite or `None`), `explanation`, `query`, `behavior` (strings or `None`).
        report (`StoreReport`): what was left out or altered on the way.
        card (`DatasetCardData`, *optional*): what the `README.md` of its folder states: name, licence.
    """

    items: Dataset
    interactions: Dataset
    report: StoreReport
    card: DatasetCardData | None = None


def read_store(folder: str | Path, rating_range: Range | None = None) -> Store:
    """Reads a folder with `items.*`, `interactions.*` (parquet, jsonl or csv) and, if there are pictures, `images/`.

    The `image` column may hold encoded pictures or paths inside the folder, relative to it or to `images/`. Without
    the column the pictures are the files `images/{item_id}.jpg` (or jpeg, png, webp, gif, bmp, tiff). Files are
    opened on use only; pictures embedded in a parquet file are held in memory.

    Files of text are UTF-8. A csv file has no types: all its columns are text except `rating` and the items'
    `available` (true or false, 1 or 0, yes or no), an empty cell is a missing value. In the other formats whole-number
    ids are turned into text, and that is counted in the report.

    Args:
        folder (`str` or `Path`): the data set's folder.
        rating_range (`Sequence[float]`, *optional*): lowest and highest rating, as in [`make_store`].

    Returns:
        [`Store`]: the tables, checked as in [`make_store`].

    Raises:
        FileNotFoundError: if one of the two tables is missing.
        ValueError: if a table is there twice or cannot be read, and as in [`make_store`].
    """
    _check_range(rating_range)
    folder = Path(folder)
    store = _build(read_table(folder, "items"), read_table(folder, "interactions"), folder, rating_range)
    return replace(store, card=read_card(folder))


def make_store(items: Dataset, interactions: Dataset, rating_range: Range | None = None) -> Store:
    """Checks and cleans two tables.

    Left out, counted: rows without an id, repeated item ids (the first stays), events of unknown items, events
    without a readable time, repeated events (same user, item and time; the first stays). Kept but altered, counted:
    ratings that are not finite or not in `rating_range` become `None`, whole-number ids become text, pictures whose
    file is missing become `None`. Picture paths are used as they are; pictures are not opened here.

    Args:
        items (`datasets.Dataset`): `item_id`, any attributes, optionally `image` (picture, encoded bytes or path) and
            `available`, which is no attribute: whether the item may be recommended (true or false, 1 or 0, or the
            texts true, false, yes, no, 1, 0; missing: it may). Attributes may not be named as columns of
            interactions are.
        interactions (`datasets.Dataset`): `user_id`, `item_id`, `timestamp` (seconds since 1970 as a number, a
            datetime or its ISO 8601 text; UTC where no zone is given), optionally `rating` (a number, or its text) and
            the texts `explanation`, `query`, `behavior`.
        rating_range (`Sequence[float]`, *optional*): lowest and highest rating. Without it any finite rating stays,
            and the range found is logged.

    Returns:
        [`Store`]: `len(items)` and `len(interactions)` of it plus the counts in `report.skipped` give what came in.

    Raises:
        ValueError: if a required column is missing, a column has a wrong type or name, no usable row is left, or
            `rating_range` is not two finite numbers, the lower one first.
    """
    _check_range(rating_range)
    return _build(items, interactions, None, rating_range)


def write_store(items: Dataset, interactions: Dataset, folder: str | Path) -> None:
    """Writes the two tables as `items.parquet` and `interactions.parquet`, every picture embedded.

    The tables are checked first, as in [`make_store`]; [`read_store`] reads the folder back, here or on another
    machine, and the Hub's viewer shows it.

    Args:
        items (`datasets.Dataset`): the items, with pictures as in [`make_store`].
        interactions (`datasets.Dataset`): the events.
        folder (`str` or `Path`): where to; made if needed, tables of that name are replaced.

    Raises:
        ValueError: as in [`make_store`].
    """
    store = make_store(items, interactions)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(store.items, folder / "items.parquet")
    _write_table(store.interactions, folder / "interactions.parquet")


def as_table(dataset: Dataset) -> pa.Table:
    """The rows of a data set as an arrow table, selections applied, pictures not decoded."""
    table = dataset.with_format("arrow")[:]
    # A selection leaves one chunk a row, which makes all that follows slow. Pictures could pass the 2 GB of a chunk.
    if Columns.IMAGE not in table.column_names:
        return table.combine_chunks()
    place = table.column_names.index(Columns.IMAGE)
    return table.remove_column(place).combine_chunks().add_column(place, table.schema.field(place), table[place])


def require_columns(dataset: Dataset, name: str, columns: Sequence[str]) -> None:
    """Raises a ValueError that names the first of `columns` that the table called `name` lacks."""
    got = dataset.column_names
    for column in columns:
        if column not in got:
            others, last_word = [c for c in got if c not in columns], column.rpartition("_")[2]
            near = [c for c in others if c.lower() == last_word]  # `id` rather than `title` for `item_id`
            near = near or difflib.get_close_matches(column, others, n=1, cutoff=0.5)
            hint = f"rename `{near[0]}`" if near else "add it"
            raise ValueError(f"`{name}` has no column `{column}`: got {', '.join(f'`{c}`' for c in got)}; {hint}.")


# Checking


def _check_range(rating_range: Range | None) -> None:
    if rating_range is None:
        return
    try:
        lowest, highest = rating_range
        right = -math.inf < lowest < highest < math.inf
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(f"`rating_range` must be the lowest and the highest rating, but got {rating_range!r:.80}.")


def _build(items: Dataset, interactions: Dataset, folder: Path | None, rating_range: Range | None) -> Store:
    report = StoreReport()
    clean_items = _clean_items(items, folder, report)
    store = Store(clean_items, _clean_interactions(interactions, clean_items, rating_range, report), report)
    if report:
        logger.warning("%s", report)
    return store


def _check_spelling(dataset: Dataset, name: str, columns: Sequence[str]) -> None:
    """Refuse `Rating` where `rating` is not there: it would be left out, or be taken for an attribute."""
    for column in dataset.column_names:
        meant = column.strip().lower()
        if meant in columns and meant not in dataset.column_names:
            raise ValueError(f"`{name}` has a column `{column}`: rename it to `{meant}`, or to something else.")


def _clean_items(items: Dataset, folder: Path | None, report: StoreReport) -> Dataset:
    _require_rows(items, "items", (Columns.ITEM_ID,))
    _check_spelling(items, "items", (Columns.IMAGE, AVAILABLE))
    for column in _EVENT_COLUMNS:
        if column in items.column_names:
            raise ValueError(
                f"`items` has a column `{column}`, but that name is for what a person did, in `interactions`; rename "
                f"it, such as to `item_{column}`."
            )
    table = _with_text_ids(as_table(items), "items", Columns.ITEM_ID, report)
    repeated = table[Columns.ITEM_ID].to_pandas().duplicated().to_numpy()
    table = _drop(table, repeated, f"items: `{Columns.ITEM_ID}` was there before", Columns.ITEM_ID, report)
    if AVAILABLE in table.column_names:
        table = replace_column(table, AVAILABLE, _truths(table[AVAILABLE]))
    if Columns.IMAGE in table.column_names:
        table = replace_column(table, Columns.IMAGE, _pictures(table[Columns.IMAGE], folder, report))
    elif folder is not None and (folder / IMAGE_FOLDER).is_dir():
        table = _with_found_pictures(table, folder, report)
    return _dataset(table, items, "items", report)


def _clean_interactions(
    interactions: Dataset, items: Dataset, rating_range: Range | None, report: StoreReport
) -> Dataset:
    name = "interactions"
    _require_rows(interactions, name, Columns.INTERACTIONS_REQUIRED)
    _check_spelling(interactions, name, Columns.EVENT_OPTIONAL)
    table = as_table(interactions)
    for column in (Columns.USER_ID, Columns.ITEM_ID):
        table = _with_text_ids(table, name, column, report)
    for column in set(Columns.EVENT_OPTIONAL) & set(table.column_names):
        values = table[column]
        values = _ratings(values, report) if column == Columns.RATING else _texts(values, column)
        table = replace_column(table, column, values)
    seconds = _seconds(table[Columns.TIMESTAMP])
    untimed = seconds.is_null().to_numpy(zero_copy_only=False)
    reason = f"{name}: `{Columns.TIMESTAMP}` is missing or unreadable"
    # The old values are still in the table here, so that the report shows them.
    dropped = _drop(table, untimed, reason, Columns.TIMESTAMP, report)
    table = replace_column(dropped, Columns.TIMESTAMP, seconds.drop_null())
    _warn_of_times(table[Columns.TIMESTAMP])
    known = pc.is_in(table[Columns.ITEM_ID], value_set=as_table(items)[Columns.ITEM_ID].combine_chunks())
    table = _drop(table, ~known.to_numpy(), f"{name}: `item_id` is not in `items`", Columns.ITEM_ID, report)
    keys = table.select(Columns.INTERACTIONS_REQUIRED).to_pandas()
    reason = f"{name}: the same user, item and time were there before"
    table = _drop(table, keys.duplicated().to_numpy(), reason, Columns.USER_ID, report)
    if Columns.RATING in table.column_names:
        table = _with_possible_ratings(table, rating_range, report)
    return _dataset(table, interactions, name, report)


def _require_rows(dataset: Dataset, name: str, columns: Sequence[str]) -> None:
    if not len(dataset):
        raise ValueError(f"`{name}` is empty: got 0 rows; give it at least one.")
    require_columns(dataset, name, columns)


def _drop(table: pa.Table, bad: np.ndarray, reason: str, column: str, report: StoreReport) -> pa.Table:
    if not bad.any():
        return table
    report.skip(reason, table[column].filter(bad).to_pylist())
    return table.filter(~bad)


def _with_text_ids(table: pa.Table, name: str, column: str, report: StoreReport) -> pa.Table:
    values = table[column]
    if pa.types.is_integer(values.type):
        report.change(f"{name}: `{column}` was a whole number and is now text", values.drop_null().to_pylist())
        values = values.cast(pa.string())
    values = _texts(values, column)
    values = pc.if_else(pc.equal(values, ""), None, values)
    missing = values.is_null().to_numpy()
    return _drop(replace_column(table, column, values), missing, f"{name}: `{column}` is missing", column, report)


def _texts(values: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (_is_text(values.type) or pa.types.is_null(values.type)):
        raise ValueError(f"`{column}` must be text, but got {values.type}; convert it.")
    return values.cast(pa.string())


def _truths(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether items may be recommended, null where that is not said."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return values.cast(pa.bool_())
    what = f"`{AVAILABLE}` of `items` (whether an item may be recommended) must be true or false, yes or no, 1 or 0"
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        raise ValueError(f"{what}, but got {kind}; convert it, or rename the column.")
    texts = values.cast(kind).cast(pa.string()).to_pylist()
    words = [text and text.strip().lower() for text in texts]
    for text, word in zip(texts, words, strict=True):
        if word is not None and word not in _TRUTHS:
            raise ValueError(f"{what}, but got {shorten(text)}; write one of these, or rename the column.")
    return pa.chunked_array([pa.array([_TRUTHS.get(word) for word in words], pa.bool_())])


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _ratings(values: pa.ChunkedArray, report: StoreReport) -> pa.ChunkedArray:
    kind = values.type
    if _is_text(kind):
        texts = values.to_pandas()
        numbers = pd.to_numeric(texts, errors="coerce")
        nothing = texts.isna() | texts.str.strip().str.casefold().isin(["", "nan"])
        if numbers.notna().any() or nothing.all():  # where none is a number, the column is the wrong one
            odd = values.filter(pa.array(numbers.isna())).drop_null().to_pylist()
            report.change(f"interactions: `{Columns.RATING}` is not a number and is now missing", odd)
            return pa.chunked_array([pa.array(numbers, pa.float64(), from_pandas=True)])
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_null(kind)):
        shown = ", ".join(map(shorten, values.drop_null()[:3].to_pylist()))
        raise ValueError(f"`{Columns.RATING}` must be a number, but got {kind} (such as {shown}); convert it.")
    return values.cast(pa.float64(), safe=False)  # unsafe: above 2^53 whole numbers are rounded, not refused


def _with_possible_ratings(table: pa.Table, rating_range: Range | None, report: StoreReport) -> pa.Table:
    table = _without_ratings(table, pc.is_finite(table[Columns.RATING]), "not finite", report)
    ratings = table[Columns.RATING]
    if rating_range is not None:
        low, high = map(float, rating_range)
        inside = pc.and_(pc.greater_equal(ratings, low), pc.less_equal(ratings, high))
        return _without_ratings(table, inside, f"outside {low:g} to {high:g}", report)
    if ratings.null_count < len(ratings):
        # A single 99 among stars stretches the scale.
        low, high = pc.min_max(ratings).as_py().values()
        logger.info("The scale of ratings is %g to %g, as they are; give `rating_range` to settle it.", low, high)
    return table


def _without_ratings(table: pa.Table, possible: pa.ChunkedArray, reason: str, report: StoreReport) -> pa.Table:
    ratings = table[Columns.RATING]
    odd = ratings.filter(pc.invert(possible)).to_pylist()  # where the rating is missing, `possible` is null as well
    report.change(f"interactions: `{Columns.RATING}` is {reason} and is now missing", odd)
    return replace_column(table, Columns.RATING, pc.if_else(possible, ratings, None))


def _seconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole seconds since 1970 as int64, null where the value cannot be read."""
    kind = values.type
    if _is_text(kind):
        return _seconds_of_texts(values)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        return values.cast(pa.timestamp("s", tz=zone), safe=False).cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_uint64(kind):
        return _seconds_of_floats(values.to_numpy())
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return values.cast(pa.int64())
    raise ValueError(f"`{Columns.TIMESTAMP}` must be seconds or datetimes, but got {kind}; convert it.")


def _warn_of_times(seconds: pa.ChunkedArray) -> None:
    first, last = pc.min_max(seconds).as_py().values()
    if first is None:
        return
    if last > _LATEST:
        logger.warning("`timestamp` is seconds since 1970, but goes up to %d: divide milliseconds by 1000.", last)
    elif first >= _EARLIEST_DAY and last <= _LATEST_DAY:
        logger.warning("`timestamp` is seconds since 1970, but goes up to %d: write days as 2026-05-03.", last)


def _seconds_of_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = values.to_pandas()
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(float, na_value=np.nan)
    dates = pd.to_datetime(texts.where(np.isnan(numbers)), errors="coerce", utc=True, format="ISO8601")
    since_1970 = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy()
    return _seconds_of_floats(np.where(np.isnan(numbers), since_1970, numbers))


def _seconds_of_floats(seconds: np.ndarray) -> pa.ChunkedArray:
    readable = np.abs(seconds) < 2.0**62  # false for NaN and infinities; beyond it int64 overflows
    whole = np.floor(np.where(readable, seconds, 0)).astype(np.int64)
    return pa.chunked_array([pa.array(whole, mask=~readable)])


def _dataset(table: pa.Table, source: Dataset, name: str, report: StoreReport) -> Dataset:
    """Keeps the features of the columns that were not altered, such as class names."""
    if not len(table):
        raise ValueError(f"`{name}` has no usable row: all {len(source)} were left out.\n{report}")
    features = Features.from_arrow_schema(table.schema.remove_metadata())
    for column in source.column_names:
        if source.features.arrow_schema.field(column).type == table.schema.field(column).type:
            features[column] = source.features[column]
    if name == "items" and Columns.IMAGE in features:
        features[Columns.IMAGE] = Image(decode=False)
    # A random fingerprint: by default every value of the table is hashed for one that nothing asks for.
    info, fingerprint = DatasetInfo(features=features), generate_random_fingerprint()
    return Dataset(table.replace_schema_metadata(None), info=info, fingerprint=fingerprint)


# Pictures


def _pictures(values: pa.ChunkedArray, folder: Path | None, report: StoreReport) -> pa.Array:
    """Brings pictures to `{"bytes", "path"}`, paths checked and made absolute, null where there is none."""
    kind = values.type
    if pa.types.is_null(kind):
        return pa.nulls(len(values), IMAGE_TYPE)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        encoded, paths = values, pa.nulls(len(values), pa.string())
    elif _is_text(kind):
        encoded, paths = pa.nulls(len(values), pa.binary()), values
    elif pa.types.is_struct(kind) and {f.name for f in kind} == {"bytes", "path"}:
        encoded, paths = pc.struct_field(values, "bytes"), pc.struct_field(values, "path")
    else:
        raise ValueError(f"`{Columns.IMAGE}` must hold pictures, bytes or paths, but got {kind}; convert it.")
    is_encoded = encoded.is_valid().to_pylist()
    # Beside bytes a path is only a name and is not looked up.
    kept = [p if has else _find(p, folder, report) for has, p in zip(is_encoded, paths.to_pylist(), strict=True)]
    return _picture_array(encoded, kept)


def _find(path: str | None, folder: Path | None, report: StoreReport) -> str | None:
    if not path:
        return None
    place = path
    if folder is not None and not os.path.isfile(folder / path):
        place = os.path.join(IMAGE_FOLDER, path)  # an absolute path stays what it is, and is refused below
    try:
        return os.path.abspath(resolve_path(place, folder))
    except ImageError:
        report.change("items: `image` names no file that may be used and is now missing", [path])
        return None


def _picture_array(encoded: pa.Array | pa.ChunkedArray, paths: list[str | None]) -> pa.ChunkedArray:
    # By chunk: one array of more than 2 GB of pictures would overflow its offsets.
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    pictures, start = [], 0
    for chunk in chunks:
        names = pa.array(paths[start : start + len(chunk)], pa.string())
        missing = pc.and_(chunk.is_null(), names.is_null())
        pictures.append(pa.StructArray.from_arrays([chunk.cast(pa.binary()), names], type=IMAGE_TYPE, mask=missing))
        start += len(chunk)
    return pa.chunked_array(pictures, IMAGE_TYPE)


def _with_found_pictures(table: pa.Table, folder: Path, report: StoreReport) -> pa.Table:
    files = sorted(file for file in os.listdir(folder / IMAGE_FOLDER) if file.lower().endswith(IMAGE_SUFFIXES))
    by_item = {Path(file).stem: file for file in files}
    found = pa.array([by_item.get(item) for item in table[Columns.ITEM_ID].to_pylist()], pa.string())
    if found.null_count == len(found):
        return table
    pictures = _pictures(pa.chunked_array([found]), folder, report)
    return table.append_column(Columns.IMAGE, pictures)


def _write_table(dataset: Dataset, path: Path) -> None:
    features = dataset.features.copy()
    has_pictures = isinstance(features.get(Columns.IMAGE), Image)
    if has_pictures:
        features[Columns.IMAGE] = Image()  # for whoever opens the file with `datasets`, and for the Hub's viewer
    table = as_table(dataset)
    step = _ROWS_PER_GROUP if has_pictures else len(table)
    with pq.ParquetWriter(path, features.arrow_schema) as writer:
        for start in range(0, len(table), step):
            rows = table.slice(start, step)
            if has_pictures:
                rows = replace_column(rows, Columns.IMAGE, _embedded(rows[Columns.IMAGE].to_pylist()))
            writer.write_table(rows.cast(features.arrow_schema))


def _embedded(pictures: list[dict[str, Any] | None]) -> pa.Array:
    return pa.array([picture and _embed(**picture) for picture in pictures], IMAGE_TYPE)


def _embed(bytes: bytes | None, path: str | None) -> dict[str, Any]:
    # Of a path only the name goes along: folders of this machine mean nothing on another.
    return {"bytes": Path(path).read_bytes() if bytes is None else bytes, "path": path and os.path.basename(path)}
