"""Raw files of any size as columns; what cannot be read is refused with the file's name."""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
from datasets import Dataset
from tqdm import tqdm

from ..columns_unimp import Columns
from ..store import require_columns
from ..table_files import require_utf8, shorten

# Longest row of a csv file, in bytes.
_CSV_BLOCK = 1 << 26
_BATCH = 50_000

EVENTS = pa.schema({Columns.USER_ID: pa.string(), Columns.ITEM_ID: pa.string(), Columns.TIMESTAMP: pa.int64()})


def read_csv(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    """
    Some columns of a csv file in UTF-8, an empty cell is missing.

    Args:
        path (`Path`): the file; its first line names the columns.
        types (`Mapping[str, pa.DataType]`): the columns to read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing or the file cannot be read.
    """
    require_utf8(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    if not header:
        raise ValueError(f"`{path}` cannot be read: it is empty; download it again.")
    require_columns(Dataset.from_dict({name: [] for name in header}), path.name, list(types))
    return _parse_csv(
        path, path, types, pa.csv.ReadOptions(block_size=_CSV_BLOCK), pa.csv.ParseOptions(newlines_in_values=True)
    )


def read_double_colons(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    """
    A `.dat` file of MovieLens: no header, cells between `::`, text in UTF-8 or Latin-1.

    Args:
        path (`Path`): the file.
        types (`Mapping[str, pa.DataType]`): all its columns, in order.
    """
    text = read_text(path)
    if "\x1f" in text:
        raise ValueError(f"`{path}` cannot be read: it has a control character; download it again.")
    # Arrow takes one character between cells: the one that is meant for it, which no title has.
    content = io.BytesIO(text.replace("::", "\x1f").encode())
    return _parse_csv(
        content,
        path,
        types,
        pa.csv.ReadOptions(column_names=list(types)),
        pa.csv.ParseOptions(delimiter="\x1f", quote_char=False),
    )


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in Latin-1 where it is none: older files do not say which."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_lines(path: Path, parse: Callable[[str], dict[str, Any]] = json.loads) -> Iterator[dict[str, Any]]:
    """
    The objects of a file with one a line, gzipped (`.gz`) or not, one after the other.

    Raises:
        ValueError: if a line cannot be read, with file and line, or the archive is cut off.
    """
    number, open_file = 0, gzip.open if path.suffix == ".gz" else open
    try:
        with open_file(path, "rb") as file:
            for number, line in enumerate(tqdm(file, path.name, unit=" lines", disable=None), start=1):
                if line.strip():
                    row = parse(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                    if not isinstance(row, dict):
                        raise ValueError(f"expected an object, got {shorten(row)}")
                    yield row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"`{path}` is cut off or damaged after line {number}: {error}; download it again.") from error
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"`{path}:{number}` cannot be read: {error}") from error


def _parse_csv(
    source: Path | io.BytesIO,
    path: Path,
    types: Mapping[str, pa.DataType],
    read_options: pa.csv.ReadOptions,
    parse_options: pa.csv.ParseOptions,
) -> pa.Table:
    convert = pa.csv.ConvertOptions(
        column_types=dict(types), include_columns=list(types), strings_can_be_null=True, null_values=[""]
    )
    try:
        return pa.csv.read_csv(source, read_options, parse_options, convert)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(f"`{path}` cannot be read: {error}") from error


def as_columns(rows: Iterable[tuple[Any, ...]], schema: pa.Schema, path: Path) -> pa.Table:
    """Rows as a table, a batch at a time: values of Python take several times the memory.

    Raises:
        ValueError: if a value is not of its column's type.
    """
    batches = []
    for batch in _batched(rows, _BATCH):
        try:
            arrays = [
                pa.array(values, kind) for values, kind in zip(zip(*batch, strict=True), schema.types, strict=True)
            ]
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError) as error:
            raise ValueError(f"`{path}` has a value of the wrong type: {error}") from error
        batches.append(pa.record_batch(arrays, schema))
    return pa.Table.from_batches(batches, schema)


def _batched(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, size)):
        yield batch
