"""The catalogue: every item an answer may name, with its attributes and picture."""

import copy
import datetime
import hashlib
import io
import json
import logging
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from .columns_unimp import Columns
from .images_unimp import ImageError, load_image, resolve_path, unpack
from .neighbours_unimp import Neighbours

logger = logging.getLogger(__name__)

# Whether an item may still be recommended; its row stays, so that histories and codes keep their meaning.
AVAILABLE = "available"

# Semantic codes, a list of integers an item: of each level its code.
CODES = "codes"
# Items that people choose close to it, a list an item; see [`Neighbours`].
NEIGHBOURS = "neighbours"
# What is no attribute, and stays where an item gets others.
KEPT = (CODES, NEIGHBOURS)

# Lists in lists, and so on, that an attribute's text tells of.
MAX_DEPTH = 4

_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: Any) -> str:
    """A value as error messages show it: at most 80 signs, however long or deep it is."""
    return _SHORT.repr(value)[:80]


def is_missing(value: Any) -> bool:
    """Whether a value says nothing: `None`, or what data frames write for it (NaN, NaT)."""
    return value is None or (isinstance(value, float | np.floating | datetime.datetime) and value != value)


def flatten_value(value: Any, max_words: int = 20, depth: int = MAX_DEPTH) -> str:
    """
    One attribute value, of any type, as text of at most `max_words` words; empty where there is nothing to say.

    Bytes are not text and say nothing; of a moment only the day is told; sets are put in order; of lists and
    dictionaries in each other the first `depth` levels are told, and what lies deeper is left out.
    """
    if is_missing(value) or isinstance(value, bytes | bytearray | memoryview):
        return ""
    if isinstance(value, np.ndarray | np.number | np.bool_):
        value = value.tolist()
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = str(int(value)) if value.is_integer() else f"{value:.7g}"
    elif isinstance(value, datetime.date):
        text = value.isoformat()[:10]
    elif isinstance(value, Iterable) and not isinstance(value, str) and depth < 1:
        text = ""
    elif isinstance(value, Mapping):
        parts = ((key, flatten_value(entry, max_words, depth - 1)) for key, entry in value.items())
        text = ", ".join(f"{key} {entry}" for key, entry in parts if entry)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        entries = [flatten_value(entry, max_words, depth - 1) for entry in value]
        text = ", ".join(filter(None, sorted(entries) if isinstance(value, set | frozenset) else entries))
    else:
        text = str(value)
    return " ".join(text.split()[:max_words])


def flatten_attributes(attributes: Mapping[str, Any], max_words: int = 20) -> str:
    """
    An item's attributes as one text, keys and values (UniMP, section "Unified data format").

    The paper writes a missing attribute as "Unknown"; here it takes no tokens at all.
    """
    parts = ((str(key), flatten_value(value, max_words)) for key, value in attributes.items())
    return "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in parts if value)


def fingerprint(item_ids: Sequence[str]) -> str:
    """A short hash of item ids and their order."""
    return hashlib.sha256(json.dumps(list(item_ids)).encode()).hexdigest()[:16]


class Catalog:
    """
    Items in the order in which a model knows them: an item's position. Attributes (`catalog.attribute_names`) are read
    in the order of the columns.

    Args:
        table (`pyarrow.Table`): a row an item with `item_id` (unique strings), optionally `image` (a struct of `bytes`
            and `path`, as `datasets.Image` stores it), `available` (`False`: never recommended), `codes` (semantic
            codes, which [`UniMPProcessor.index_catalog`] writes), `neighbours` (which training writes; numbers of
            rows, which must stay in order) and any attributes.
        root (`str` or `Path`, *optional*): folder that the table's pictures given by path are in; they cannot be
            outside of it.

    Attributes:
        most_items (`int`, *optional*): how many items the semantic codes of a model tell apart; known to a catalogue
            that a processor of such a model holds.

    Raises:
        `ValueError`: there is no item, `item_id` is missing, not text, empty or not unique, or `image`, `available`,
            `codes` or `neighbours` is of another type.
    """

    def __init__(self, table: pa.Table, root: str | Path | None = None) -> None:
        if not isinstance(table, pa.Table):
            raise ValueError(
                f"`table` must be a `pyarrow.Table`, got {type(table).__name__}: use `Catalog.from_items` for a list "
                "of dictionaries."
            )
        self.root = root
        self.most_items: int | None = None
        self._set_table(_with_defaults(table))

    @classmethod
    def from_items(cls, items: Iterable[Mapping[str, Any]], root: str | Path | None = None) -> "Catalog":
        """
        From dictionaries; an `image` may be a path (inside `root`, if there is one), bytes or a picture. Raises
        [`ImageError`] for a bad one.
        """
        return cls(_to_table(items, root), root)

    def _set_table(self, table: pa.Table) -> None:
        item_ids = table[Columns.ITEM_ID].to_pylist()
        positions = {item_id: position for position, item_id in enumerate(item_ids)}
        if len(positions) < len(item_ids):
            repeated = next(item_id for position, item_id in enumerate(item_ids) if positions[item_id] != position)
            raise ValueError(
                f"`item_id` must be unique, got {repeated!r} more than once: leave the repeats out, or `replace` "
                "what the catalogue has."
            )
        self.table = table
        self.item_ids: list[str] = item_ids
        self._positions = positions
        self._pictured = _pictured(table)
        self._image_keys: dict[int, bytes] = {}
        self._codes = _read_codes(table)
        self.neighbours = Neighbours.from_column(table[NEIGHBOURS]) if NEIGHBOURS in table.column_names else None
        reserved = (Columns.ITEM_ID, Columns.IMAGE, AVAILABLE, *KEPT)
        self.attribute_names = [name for name in table.column_names if name not in reserved]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Catalog":
        # Tables are immutable, and every change replaces what is derived from them: nothing needs to be copied twice.
        return copy.copy(self)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and item_id in self._positions

    @property
    def fingerprint(self) -> str:
        """A short hash of the item ids in order: what a model's codes mean, whatever the attributes are."""
        return fingerprint(self.item_ids)

    def position(self, item_id: str) -> int:
        """The item's place in the catalogue. Raises `KeyError` for an item that is not in it."""
        return self._positions[item_id]

    def item(self, position: int) -> dict[str, Any]:
        """`item_id` and the attributes that have a value."""
        return {Columns.ITEM_ID: self.item_ids[position]} | self.attributes(position)

    def attributes(self, position: int) -> dict[str, Any]:
        """The attributes that have a value."""
        row = {name: self.table[name][position].as_py() for name in self.attribute_names}
        return {name: value for name, value in row.items() if flatten_value(value)}

    def has_image(self, position: int) -> bool:
        """Whether the item has a picture."""
        return self._pictured[position]

    def _image_source(self, position: int) -> dict[str, Any] | None:
        return self.table[Columns.IMAGE][position].as_py() if self._pictured[position] else None

    def image(self, position: int) -> Image.Image | None:
        """The item's picture in RGB, or `None`. Raises [`ImageError`] for one that cannot be read."""
        source = self._image_source(position)
        return None if source is None else _load(source, self.root, self.item_ids[position])

    def image_key(self, position: int) -> bytes:
        """A hash of the file of the item's picture, 16 bytes; remembered. The item must have a picture."""
        if position not in self._image_keys:
            source = self._image_source(position)
            try:
                data = source["bytes"] or resolve_path(source["path"], self.root).read_bytes()
            except ImageError as error:
                raise ImageError(_of_item(self.item_ids[position], error)) from error
            self._image_keys[position] = hashlib.sha256(data).digest()[:16]
        return self._image_keys[position]

    @property
    def available(self) -> list[bool]:
        """Per item, whether it may still be recommended."""
        return self.table[AVAILABLE].to_pylist()

    @property
    def codes(self) -> np.ndarray | None:
        """
        The items' semantic codes, `[items, levels]`, -1 for items that have none yet; `None` where no item has any.
        """
        return self._codes

    def set_codes(self, codes: np.ndarray | None) -> None:
        """Keep these semantic codes of all items, `[items, levels]`, or none."""
        column = None
        if codes is not None:
            offsets = pa.array(np.arange(len(codes) + 1, dtype=np.int32) * codes.shape[1])
            values = pa.array(np.ascontiguousarray(codes, dtype=np.int32).ravel())
            column = pa.ListArray.from_arrays(offsets, values)
        self._set_column(CODES, column)

    def set_neighbours(self, neighbours: Neighbours | None) -> None:
        """Keep which items people choose together, or nothing of it."""
        self._set_column(NEIGHBOURS, None if neighbours is None else neighbours.column())

    def _set_column(self, name: str, column: pa.Array | None) -> None:
        """One that tells nothing of what the items are, or none."""
        there = name in self.table.column_names
        if column is None and not there:
            return
        table = self.table.drop_columns([name] if there else [])
        image_keys = self._image_keys
        self._set_table(table if column is None else table.append_column(name, column))
        self._image_keys = image_keys

    def add(self, items: Iterable[Mapping[str, Any]], root: str | Path | None = None) -> range:
        """
        Append items; returns their positions. Give the model their codes with `processor.index_catalog(model)`.

        Args:
            items: dictionaries, as in [`~Catalog.from_items`]. Their pictures are read now. A number becomes a text
                where the catalogue's attribute is one.
            root (`str` or `Path`, *optional*): folder that pictures given by path are in and cannot be outside of.
                Without it a path is opened as it is, relative to the working directory.

        Raises:
            `ValueError`: as the class, or there would be more items than the model has codes for (`most_items`). The
                catalogue is then as it was.
        """
        first, table = len(self), self._with_rows(_to_table(items, root))
        if self.most_items is not None and len(table) > self.most_items:
            raise ValueError(
                f"`items` are {len(table) - first}, too many to join {first}: the model's semantic codes "
                f"(`code_sizes`) tell at most {self.most_items} items apart. Train a new model with larger ones."
            )
        self._set_table(table)
        return range(first, len(self))

    def replace(self, items: Iterable[Mapping[str, Any]], root: str | Path | None = None) -> list[int]:
        """
        Give items of the catalogue new attributes and pictures, in place of all they had; one that had been removed
        stays so, unless it comes with `available` true. Returns their positions; tell the model with
        `processor.index_catalog(model, positions)`. Semantic codes and neighbours stay what they are.

        Args:
            items, root: as in [`~Catalog.add`].
        """
        given = _to_table(items, root)
        table = self._with_rows(given)
        item_ids = table[Columns.ITEM_ID].to_pylist()[len(self) :]
        if unknown := [item_id for item_id in item_ids if item_id not in self]:
            raise ValueError(f"`items` must be in the catalogue, got {unknown[:3]}: `add` those.")
        codes = [self._positions[item_id] for item_id in item_ids]
        if len(set(codes)) < len(codes):
            raise ValueError("`items` must have each `item_id` once, got some more than once: leave the repeats out.")
        rows, available = list(range(len(self))), self.available
        said = given[AVAILABLE].to_pylist() if AVAILABLE in given.column_names else [None] * len(given)
        for row, (code, may_be_shown) in enumerate(zip(codes, said, strict=True), start=len(self)):
            rows[code] = row
            if may_be_shown is not None:
                available[code] = may_be_shown
        kept = {name: self.table[name] for name in KEPT if name in self.table.column_names}
        table = _with_available(table.take(rows), available)
        for name, column in kept.items():
            table = table.set_column(table.column_names.index(name), name, column)
        self._set_table(table)
        return codes

    def _with_rows(self, added: pa.Table) -> pa.Table:
        added = _with_defaults(added)
        added = added.drop_columns([name for name in KEPT if name in added.column_names])  # this catalogue's to give
        texts = {field.name for field in self.table.schema if pa.types.is_string(field.type)}
        for place, (name, kind) in enumerate(zip(added.column_names, added.schema.types, strict=True)):
            if name in texts and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):  # as a csv file has them
                added = added.set_column(place, name, added[name].cast(pa.string()))
        try:
            return pa.concat_tables([self.table, added], promote_options="permissive")
        except pa.ArrowException as error:
            raise ValueError(f"`items` must have attributes of the same types as the catalogue's: {error}") from error

    def remove(self, item_ids: Iterable[str]) -> None:
        """
        Never recommend these items again, until `replace` says that they are `available`. They keep their codes, so
        that histories that hold them stay readable.
        """
        gone = [item_ids] if isinstance(item_ids, str) else list(item_ids)
        if unknown := [item_id for item_id in gone if item_id not in self]:
            raise ValueError(f"`item_ids` must be in the catalogue, got {unknown[:3]}: see `catalog.item_ids`.")
        available = self.available
        for item_id in gone:
            available[self._positions[item_id]] = False
        self._set_table(_with_available(self.table, available))

    def embed_images(self) -> dict[str, str]:
        """
        Read every picture into the catalogue itself, so that it no longer needs its folder.

        Returns:
            `dict[str, str]`: the items whose picture could not be read, with the reason. They stay, without a picture.
        """
        unreadable = self._embed_images(leave_out=True)
        if unreadable:
            examples = "; ".join(f"{item_id}: {reason}" for item_id, reason in list(unreadable.items())[:3])
            logger.warning("%d pictures could not be read and are left out (%s).", len(unreadable), examples)
        return unreadable

    def require_images(self) -> None:
        """
        Read every picture that is still in a file into the catalogue itself, as saving it takes. Raises [`ImageError`]
        where one cannot be read; the catalogue is then as it was.
        """
        if any(source and not source["bytes"] for source in map(self._image_source, range(len(self)))):
            self._embed_images(leave_out=False)

    def _embed_images(self, leave_out: bool) -> dict[str, str]:
        if Columns.IMAGE not in self.table.column_names:
            return {}
        images, unreadable = [], {}
        for position, item_id in enumerate(self.item_ids):
            try:
                images.append(image_struct(self._image_source(position), self.root))
            except ImageError as error:
                if not leave_out:
                    raise ImageError(
                        f"{_of_item(item_id, error)} The catalogue cannot be saved without it: bring it back, or "
                        "leave out all that cannot be read with `catalog.embed_images()`."
                    ) from error
                images.append(None)
                unreadable[item_id] = str(error)
        index = self.table.column_names.index(Columns.IMAGE)
        self._set_table(self.table.set_column(index, Columns.IMAGE, pa.array(images, type=_IMAGE_TYPE)))
        return unreadable

    def save(self, path: str | Path) -> None:
        """
        Write one parquet file, pictures included, that the Hub's viewer shows. Raises [`ImageError`], before anything
        is written, where a picture cannot be read.
        """
        self.require_images()
        pq.write_table(self.table.replace_schema_metadata(self._viewer_metadata()), path)

    def _viewer_metadata(self) -> dict[str, str] | None:
        """What tells the Hub's viewer which column is a picture, where the library that knows how is at hand."""
        try:
            import datasets
        except ImportError:
            return self.table.schema.metadata
        features = datasets.Features.from_arrow_schema(self.table.schema.remove_metadata())
        if Columns.IMAGE in features:
            features[Columns.IMAGE] = datasets.Image()
        return {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}

    @classmethod
    def load(cls, path: str | Path) -> "Catalog":
        """Read what [`~Catalog.save`] wrote."""
        return cls(pq.read_table(path), root=Path(path).parent)


def _with_defaults(table: pa.Table) -> pa.Table:
    """Check the columns that have a meaning of their own, and say of every item whether it is available."""
    if not len(table):
        raise ValueError("`items` is empty: a catalogue needs at least one item.")
    if Columns.ITEM_ID not in table.column_names:
        raise ValueError(
            f"`items` needs a column `{Columns.ITEM_ID}`, got {table.column_names}: add it, or rename the one meant."
        )
    _check_ids(table[Columns.ITEM_ID])
    if Columns.IMAGE in table.column_names:
        index = table.column_names.index(Columns.IMAGE)
        table = table.set_column(index, Columns.IMAGE, _image_column(table[Columns.IMAGE]))
    if AVAILABLE not in table.column_names:
        return table.append_column(AVAILABLE, pa.array([True] * len(table), type=pa.bool_()))
    available, index = table[AVAILABLE], table.column_names.index(AVAILABLE)
    if not (pa.types.is_boolean(available.type) or pa.types.is_null(available.type)):
        raise ValueError(f"`{AVAILABLE}` must be true or false, got {available.type}: rename this attribute.")
    return table.set_column(index, AVAILABLE, pc.fill_null(available.cast(pa.bool_()), True))


def _with_available(table: pa.Table, available: Sequence[bool]) -> pa.Table:
    return table.set_column(table.column_names.index(AVAILABLE), AVAILABLE, pa.array(available, type=pa.bool_()))


def _read_codes(table: pa.Table) -> np.ndarray | None:
    """`[items, levels]`, -1 where there are none."""
    if CODES not in table.column_names:
        return None
    column = table[CODES].combine_chunks()
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or not pa.types.is_integer(column.type.value_type):
        raise ValueError(f"`{CODES}` must be lists of integers, got {column.type}: rename this attribute.")
    levels = pc.unique(pc.list_value_length(column.drop_null())).to_pylist()
    if len(levels) != 1 or not levels[0]:
        raise ValueError(f"`{CODES}` must have one length, got {levels[:3]}: call `processor.index_catalog(model)`.")
    codes = np.full((len(column), levels[0]), -1, dtype=np.int32)
    codes[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, levels[0])
    return codes


def _check_ids(column: pa.ChunkedArray) -> None:
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not is_text and column.null_count < len(column):
        raise ValueError(f"`{Columns.ITEM_ID}` must be text, got {column.type}: convert each with `str`.")
    if column.null_count or pc.any(pc.equal(column, "")).as_py():
        raise ValueError(f"`{Columns.ITEM_ID}` must not be missing or empty, got such a row: leave it out.")


def _image_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column if column.type == _IMAGE_TYPE else column.cast(_IMAGE_TYPE)
    except pa.ArrowException as error:
        raise ValueError(
            f"`{Columns.IMAGE}` must be a struct of `bytes` and `path`, got {column.type}: use `Catalog.from_items`, "
            "which takes paths, bytes and pictures."
        ) from error


def _pictured(table: pa.Table) -> list[bool]:
    """Per item, whether it has a picture, without reading any."""
    if Columns.IMAGE not in table.column_names:
        return [False] * len(table)
    lengths = (pc.binary_length(pc.struct_field(table[Columns.IMAGE], name)) for name in ("bytes", "path"))
    in_file, by_path = (pc.fill_null(pc.greater(length, 0), False) for length in lengths)
    return pc.or_(in_file, by_path).to_pylist()


def _to_table(items: Iterable[Mapping[str, Any]], root: str | Path | None) -> pa.Table:
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        raise ValueError(f"`items` must be a list of dictionaries, got {type(items).__name__}.")
    rows = list(items)
    for row in rows:
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise ValueError(f"`items` must be dictionaries with text as keys, got {shown(row)}.")
    # Of every row: what only later items have is an attribute as well.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column(name, rows, root) for name in names}
    return pa.table(columns) if rows else pa.table({Columns.ITEM_ID: pa.array([], pa.string())})


def _column(name: str, rows: list[Mapping[str, Any]], root: str | Path | None) -> pa.Array:
    if name == Columns.IMAGE:
        images = []
        for row in rows:
            try:
                images.append(image_struct(row.get(name), root))
            except ImageError as error:
                raise ImageError(_of_item(row.get(Columns.ITEM_ID), error)) from error
        return pa.array(images, type=_IMAGE_TYPE)
    values = [row.get(name) for row in rows]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise ValueError(
            f"`{name}` must be of one type that a table can hold in all items, got {', '.join(kinds)} ({error}): "
            "convert it, for instance with `str`."
        ) from error


def _of_item(item_id: Any, error: ImageError) -> str:
    return f"`{Columns.IMAGE}` of item {item_id!r}: {error}"


def _load(source: Any, root: str | Path | None, item_id: Any) -> Image.Image:
    try:
        return load_image(source, root=root)
    except ImageError as error:
        raise ImageError(_of_item(item_id, error)) from error


def image_source(value: Any) -> Any:
    """What an `image` cell holds for [`load_image`]; `None` where there is no picture."""
    source = unpack(value)
    return None if is_missing(source) else source


def image_struct(value: Any, root: str | Path | None = None) -> dict[str, Any] | None:
    """
    A picture as `datasets.Image` stores it, its file's own bytes where it comes from a file; read once, so that one
    that cannot be read is refused here.
    """
    source = image_source(value)
    if source is None:
        return None
    image = load_image(source, root=root)
    if isinstance(source, str | Path):
        source = Path(root or ".", source).read_bytes()
    elif isinstance(source, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        source = buffer.getvalue()
    return {"bytes": bytes(source), "path": None}
