"""Reading one table from a parquet, jsonl or csv file; what cannot be read is refused with the file's name."""

import csv
import json
import os
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from datasets import Dataset

from .columns_unimp import Columns

# Longest row of a csv file, in bytes; far beyond a 10,000-word title.
_CSV_BLOCK = 1 << 26
# Deepest nesting of an attribute; arrow and `datasets` give up at some 40.
_DEEPEST = 20


def read_table(folder: Path, name: str) -> Dataset:
    """The one file `{name}.parquet`, `{name}.jsonl` or `{name}.csv` of a folder, unchecked."""
    readers: dict[str, Callable[[Path], Dataset]] = {"parquet": _read_parquet, "jsonl": _read_jsonl, "csv": _read_csv}
    paths = [path for suffix in readers if (path := folder / f"{name}.{suffix}").is_file()]
    if not paths:
        got = sorted(os.listdir(folder)) if folder.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"`folder` {str(folder)!r} needs `{name}.parquet`, `{name}.jsonl` or `{name}.csv`, but got {got}."
        )
    if len(paths) > 1:
        raise ValueError(f"`folder` has {' and '.join(f'`{path.name}`' for path in paths)}; remove all but one.")
    return readers[paths[0].suffix[1:]](paths[0])


def _read_parquet(path: Path) -> Dataset:
    try:
        return Dataset(pq.ParquetFile(path).read())
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{path}` is not a readable parquet file: {error}") from error


def _read_csv(path: Path) -> Dataset:
    require_utf8(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    if not header or len(set(header)) < len(header):
        raise ValueError(f"`{path}` must begin with a line of distinct column names, but got {header}.")
    if len(header) == 1 and (marks := [mark for mark in ";\t|" if mark in header[0]]):
        raise ValueError(
            f"`{path}` is separated by {marks[0]!r}: save it with commas between columns, and points in numbers."
        )
    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=_CSV_BLOCK),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types={column: pa.string() for column in header}, strings_can_be_null=True, null_values=[""]
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{path}` cannot be read: {error}") from error
    return Dataset(table)


def _read_jsonl(path: Path) -> Dataset:
    rows = read_json_rows(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Dataset(pa.table({name: json_column([row.get(name) for row in rows], name, path) for name in names}))


def require_utf8(path: Path) -> None:
    """Raises a ValueError that names the file if it is not text in UTF-8."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # UTF-16 without a mark is valid UTF-8 full of zeros.
            odd = "a zero byte" if "\0" in file.read(2) else None
            while file.read(1 << 20):
                pass
    except UnicodeDecodeError as error:
        odd = f"the byte {error.object[error.start]:#04x}"
    if odd:
        raise ValueError(
            f'`{path}` is not UTF-8 text: got {odd}; save it as UTF-8 (in Excel as "CSV UTF-8"), or convert it, such '
            "as with `iconv -f LATIN1 -t UTF-8` (UTF-16 for LATIN1 if a spreadsheet wrote it)."
        )


def read_json_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file; raises a ValueError that names file and line if one cannot be read."""
    require_utf8(path)
    with path.open(encoding="utf-8-sig") as file:
        return [_json_object(line, f"{path}:{number}") for number, line in enumerate(file, start=1) if line.strip()]


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:  # numbers of thousands of digits too
        raise ValueError(f"`{place}` is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"`{place}` is nested too deep: got {shorten(line)}; write flat attributes.") from error
    if not isinstance(row, dict):
        raise ValueError(f"`{place}` must be an object of column: value, but got {shorten(line.strip())}.")
    return row


def json_column(values: list[Any], name: str, path: Path) -> pa.Array:
    """Values of one column of a jsonl file; raises a ValueError that names both if a value cannot be kept."""
    try:
        name.encode()
        column = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        _refuse_unusable([name, *values], name, path)
        if name in Columns.INTERACTIONS_REQUIRED:  # ids and times, some in quotes and some not
            return pa.array([None if value is None else str(value) for value in values])
        raise ValueError(f"`{name}` of `{path}` mixes types: {error}; write all its values alike.") from error
    if (depth := _depth(column.type)) > _DEEPEST:
        raise ValueError(f"`{name}` of `{path}` is nested {depth} deep; write flat attributes, {_DEEPEST} at most.")
    return column


def _refuse_unusable(values: list[Any], name: str, path: Path) -> None:
    """Raises for the first value that not even a column of its own can hold."""
    place = f"`{name.encode(errors='backslashreplace').decode()}` of `{path}`"
    for value in values:
        try:
            pa.array([value])
        except pa.ArrowException:
            return  # types mixed within the value: for the caller to say
        except (OverflowError, UnicodeEncodeError) as error:
            why = "a whole number beyond 64 bits", "write a smaller one, or text in quotes"
            if isinstance(error, UnicodeEncodeError):
                why = "a lone surrogate", "write whole characters, in UTF-8"
            raise ValueError(f"{place} has {why[0]}: got {reprlib.repr(value)}; {why[1]}.") from error


def _depth(kind: pa.DataType) -> int:
    """How many lists and objects are within each other; not recursive, as the depth may be any."""
    depth, level = -1, [kind]
    while level:
        level = [kind.field(n).type for kind in level for n in range(kind.num_fields)]
        depth += 1
    return depth


def replace_column(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with other values in one of its columns."""
    return table.set_column(table.column_names.index(column), column, values)


def shorten(value: Any) -> str:
    """A value as it looks in an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
