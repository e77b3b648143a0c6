"""What visitors send: pictures, tables and archives, none of which is to be trusted."""

import csv
import io
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from PIL import Image

from unimp import Catalog

from .shop import IMAGE, ITEM_ID

MEGABYTE = 1 << 20
MAX_FILE_BYTES = 20 * MEGABYTE  # of anything that is sent
MAX_PICTURE_BYTES = 8 * MEGABYTE
MAX_TABLE_BYTES = MEGABYTE
MAX_UNPACKED_BYTES = 60 * MEGABYTE  # of an archive, counted while it is unpacked: what it says of itself may be a lie
MAX_FILES = 250
MAX_ITEMS, MAX_COLUMNS, MAX_TEXT = 100, 20, 300
MAX_PICTURE_PIXELS = 24_000_000  # told by the header, before a pixel is decoded
MAX_UPLOAD_PIXELS = 10 * MAX_PICTURE_PIXELS  # of all pictures together: a few bytes can hold very many pixels
KEPT_SIZE = 512  # pixels of the longer side of what is kept of a picture

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
OWN_PREFIX = "yours-"
# What a catalogue or an event means by these columns is not a visitor's to set.
_RESERVED = {"available", "codes", "user_id", "timestamp", "rating", "explanation", "query", "behavior"}
_LINK = 0o120000


@dataclass
class Upload:
    """
    Attributes:
        items: rows for `Catalog.add`.
        notes: what was left out or changed, in words.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Files:
    """What was sent, in memory: nothing is unpacked to the disk."""

    tables: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pixels: int = 0  # of those that were asked for

    def add(self, name: str, data: bytes) -> None:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".csv":
            self.tables[name] = data
        elif suffix in PICTURE_SUFFIXES:
            self.pictures[PurePosixPath(name).name.lower()] = data
        else:
            self.notes.append(f"{name[:80]} is neither a picture nor a .csv table and was left out.")

    def picture(self, name: str) -> bytes:
        """One of the pictures, made anew; raises `ValueError`, too, once all have too many pixels together."""
        self.pixels += _num_pixels(self.pictures[name])
        if self.pixels > MAX_UPLOAD_PIXELS:
            raise ValueError(f"Together the pictures have more than {_millions(MAX_UPLOAD_PIXELS)}: send fewer.")
        return read_picture(self.pictures[name])


def clean_text(value: Any, limit: int = MAX_TEXT) -> str:
    """Text without control signs and surplus space, at most `limit` signs of it."""
    text = unicodedata.normalize("NFC", str(value))
    text = "".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in text[: 4 * limit])
    return " ".join(text.split())[:limit].strip()


def read_picture(data: bytes) -> bytes:
    """
    A picture, made anew in a size that is kept: nothing of the file that was sent remains.

    Raises:
        `ValueError`: it is too large in bytes or pixels, damaged, or no picture.
    """
    _num_pixels(data)
    try:
        picture = Catalog.from_items([{ITEM_ID: "picture", IMAGE: data}]).image(0)
    except ValueError as error:
        raise ValueError("The picture is damaged or cut off: send another one.") from error
    picture.thumbnail((KEPT_SIZE, KEPT_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG" if max(picture.size) <= 128 else "JPEG", quality=92)
    return buffer.getvalue()


def _num_pixels(data: bytes) -> int:
    """How many pixels a picture says that it has; raises `ValueError` where they are too many, or it is no picture."""
    if len(data) > MAX_PICTURE_BYTES:
        raise ValueError(f"The picture is larger than {MAX_PICTURE_BYTES // MEGABYTE} MB: make it smaller.")
    most = _millions(MAX_PICTURE_PIXELS)
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"The picture has far more than {most}: make it smaller.") from error
    except Exception as error:  # on damaged data Pillow raises whatever it trips over
        raise ValueError("This is not a picture that can be read: send a PNG, JPEG, WebP, GIF or BMP.") from error
    if width * height > MAX_PICTURE_PIXELS:
        raise ValueError(f"The picture is {width} x {height}, more than {most}: make it smaller.")
    return width * height


def _millions(pixels: int) -> str:
    return f"{pixels // 10**6} million pixels"


def read_item(path: str | None, title: str) -> dict[str, Any]:
    """An entry of a history that no catalogue has: a picture, a title, or both."""
    title = clean_text(title)
    entry = {"title": title} if title else {}
    if path is not None:
        entry[IMAGE] = read_picture(_read_bounded(Path(path), MAX_PICTURE_BYTES, "The picture"))
    if not entry:
        raise ValueError("Give a picture, a title, or both.")
    return entry


def read_upload(paths: Sequence[str], catalog: Catalog) -> Upload:
    """
    Items of a visitor's files: a table with pictures beside it, pictures alone, or a .zip of these.

    Args:
        paths: the files.
        catalog ([`Catalog`]): that they are to join, whose columns say which are numbers.

    Raises:
        `ValueError`: the files are too large or too many, or there is no item in them.
    """
    files = _gather([Path(path) for path in paths or ()])
    if len(files.tables) > 1:
        raise ValueError(
            f"There are {len(files.tables)} tables: send one .csv file, and take the others away with their ×."
        )
    rows = _read_table(*next(iter(files.tables.items()))) if files.tables else _rows_of_pictures(files.pictures)
    if not rows:
        raise ValueError("There is no item in this: send a .csv with a line an item, pictures, or a .zip of them.")
    upload = Upload(notes=files.notes)
    if len(rows) > MAX_ITEMS:
        upload.notes.append(f"Only the first {MAX_ITEMS} of {len(rows)} items were taken.")
    taken = set(catalog.item_ids)
    for number, row in enumerate(rows[:MAX_ITEMS], start=1):
        upload.items.append(_item(row, number, taken, files, catalog.table.schema))
    return upload


def _gather(paths: list[Path]) -> _Files:
    files, total = _Files(), 0
    if len(paths) > MAX_FILES:
        raise ValueError(f"These are {len(paths)} files, and at most {MAX_FILES} are read: send fewer.")
    for path in paths:
        if path.suffix.lower() == ".zip":
            source = io.BytesIO(_read_bounded(path, MAX_FILE_BYTES, "The .zip file"))
            for name, data in _unzip(source, files.notes):
                files.add(name, data)
            continue
        data = _read_bounded(path, MAX_FILE_BYTES, "A file")
        total += len(data)
        if total > MAX_UNPACKED_BYTES:
            raise ValueError(f"The files are larger than {MAX_UNPACKED_BYTES // MEGABYTE} MB together: send fewer.")
        files.add(path.name, data)
    return files


def _read_bounded(path: Path, limit: int, name: str) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {limit // MEGABYTE} MB: send a smaller one.")
    return data


def _unzip(source: io.BytesIO, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    """Names and contents; counted as they come, so that no archive grows beyond the limit."""
    left = MAX_UNPACKED_BYTES
    try:
        with zipfile.ZipFile(source) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > MAX_FILES:
                raise ValueError(f"The .zip has {len(members)} files, and at most {MAX_FILES} are read: send fewer.")
            for member in members:
                if reason := _suspicious(member):
                    notes.append(f"{clean_text(member.filename, 80)} was left out: {reason}.")
                    continue
                if "__MACOSX" in member.filename or PurePosixPath(member.filename).name.startswith("."):
                    continue
                with archive.open(member) as file:
                    data = file.read(min(left, MAX_PICTURE_BYTES) + 1)
                left -= len(data)
                if left < 0:
                    raise ValueError(
                        f"The .zip unpacks to more than {MAX_UNPACKED_BYTES // MEGABYTE} MB: send smaller pictures."
                    )
                yield member.filename, data
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zipfile.zlib.error) as error:
        raise ValueError("The .zip file is damaged, locked with a password, or not a .zip: make it anew.") from error


def _suspicious(member: zipfile.ZipInfo) -> str | None:
    """What is wrong with where a member of an archive says it belongs."""
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
        return "its path leads out of the archive"
    return "it is a link" if member.external_attr >> 16 & 0o170000 == _LINK else None


def _read_table(name: str, data: bytes) -> list[dict[str, str]]:
    if len(data) > MAX_TABLE_BYTES:
        raise ValueError(f"The table is larger than {MAX_TABLE_BYTES // MEGABYTE} MB: send a smaller one.")
    try:
        text = data.decode("utf-8-sig")
        first = text.partition("\n")[0]
        # As spreadsheets write it where the comma is in numbers.
        separator = ";" if ";" in first and "," not in first else ","
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header = [clean_text(column, 40).lower().replace(" ", "_") for column in next(lines, [])]
        rows = [line for line in lines if any(cell.strip() for cell in line)]
    except UnicodeDecodeError as error:
        raise ValueError("The table is not UTF-8 text: save it as UTF-8 (in Excel as “CSV UTF-8”).") from error
    except csv.Error as error:
        raise ValueError(f"The table cannot be read: {clean_text(error)}. Save it as comma-separated text.") from error
    if not header or len(set(header)) < len(header) or not all(header) or len(header) > MAX_COLUMNS:
        raise ValueError(
            f"The table must begin with a line of at most {MAX_COLUMNS} different column names, such as "
            "item_id,title,image."
        )
    if odd := next((number for number, line in enumerate(rows, start=2) if len(line) != len(header)), None):
        raise ValueError(f"Row {odd} of the table has another number of cells than its first line has names.")
    return [dict(zip(header, line, strict=True)) for line in rows]


def _rows_of_pictures(pictures: dict[str, bytes]) -> list[dict[str, str]]:
    titles = {name: re.sub(r"[-_.]+", " ", PurePosixPath(name).stem).strip().capitalize() for name in pictures}
    return [{"title": title, IMAGE: name} for name, title in titles.items()]


def _item(row: dict[str, str], number: int, taken: set[str], files: _Files, schema: pa.Schema) -> dict[str, Any]:
    """One item, of what can be used of a row."""
    given = clean_text(row.get(ITEM_ID, ""), 60)
    item_id = f"{OWN_PREFIX}{given or number}"
    while item_id in taken:
        item_id += "+"
    taken.add(item_id)
    item: dict[str, Any] = {ITEM_ID: item_id}
    name = PurePosixPath(row.get(IMAGE, "").replace("\\", "/")).name.lower()
    names = [name] if name else [f"{given.lower()}{suffix}" for suffix in PICTURE_SUFFIXES]
    found = next((picture for picture in names if picture in files.pictures), None)
    if found is not None:
        try:
            item[IMAGE] = files.picture(found)
        except ValueError as error:
            files.notes.append(f"Row {number} joined without its picture. {error}")
    elif name:
        files.notes.append(f"Row {number} joined without a picture: there is no file {clean_text(name, 60)}.")
    for column, value in row.items():
        if column in (ITEM_ID, IMAGE) or column in _RESERVED or not clean_text(value):
            continue
        kept = _as_type(clean_text(value), schema.field(column).type if column in schema.names else pa.string())
        if kept is None:
            files.notes.append(
                f"Row {number}: {column} “{clean_text(value, 30)}” does not fit this catalogue and is left out."
            )
        else:
            item[column] = kept
    return item


def _as_type(text: str, kind: pa.DataType) -> Any:
    """A cell as the catalogue's column holds it; `None` where it cannot."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return text
    try:
        if pa.types.is_integer(kind):
            return pa.scalar(int(text), kind).as_py()
        if pa.types.is_floating(kind):
            number = float(text)
            return number if abs(number) < 1e30 else None
    except (ValueError, pa.ArrowException):
        return None
    if pa.types.is_boolean(kind):
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    return None
