"""The catalogue: every item an answer may name, with its attributes and picture."""

import datetime
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .columns_unimp import Columns
from .images_unimp import ImageError, load_image


logger = logging.getLogger(__name__)

# Whether an item may still be recommended; its row stays, so that histories and codes keep their meaning.
AVAILABLE = "available"

_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def flatten_value(value: Any, max_words: int = 20) -> str:
    """One attribute value, of any type, as text of at most `max_words` words; empty where there is nothing to say."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, datetime.datetime | datetime.date):
        text = value.isoformat()[:10]
    elif isinstance(value, Mapping):
        parts = ((key, flatten_value(entry, max_words)) for key, entry in value.items())
        text = ", ".join(f"{key} {entry}" for key, entry in parts if entry)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        text = ", ".join(filter(None, (flatten_value(entry, max_words) for entry in value)))
    else:
        text = str(value)
    return " ".join(text.split()[:max_words])


def flatten_attributes(attributes: Mapping[str, Any], max_words: int = 20) -> str:
    """
    An item's attributes as one text, keys and values (UniMP, section "Unified data format").

    The paper writes a missing attribute as "Unknown"; here it takes no tokens at all.
    """
    parts = ((key, flatten_value(value, max_words)) for key, value in attributes.items())
    return "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in parts if value)


class Catalog:
    """
    Items in order of their codes: item `catalog.item_ids[n]` has code `n`.

    Args:
        table (`pyarrow.Table`): a row an item with `item_id` (unique strings), optionally `image` (a struct of `bytes`
            and `path`, as `datasets.Image` stores it) and any attributes.
        root (`str` or `Path`, *optional*): folder that pictures given by path are in; they cannot be outside of it.

    Raises:
        `ValueError`: `item_id` is missing, not text, empty or not unique.
    """

    def __init__(self, table: pa.Table, root: str | Path | None = None) -> None:
        self.root = root
        self._set_table(_with_defaults(table))

    @classmethod
    def from_items(cls, items: Iterable[Mapping[str, Any]], root: str | Path | None = None) -> "Catalog":
        """From dictionaries; an `image` may be a path, bytes or a picture."""
        return cls(_to_table(items, root), root)

    def _set_table(self, table: pa.Table) -> None:
        item_ids = table[Columns.ITEM_ID].to_pylist()
        positions = {item_id: position for position, item_id in enumerate(item_ids)}
        if len(positions) < len(item_ids):
            repeated = next(item_id for position, item_id in enumerate(item_ids) if positions[item_id] != position)
            raise ValueError(f"`item_id` must be unique, got {repeated!r} more than once.")
        self.table = table
        self.item_ids: list[str] = item_ids
        self._positions = positions
        self._attribute_names = [
            name for name in table.column_names if name not in (Columns.ITEM_ID, Columns.IMAGE, AVAILABLE)
        ]

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._positions

    def position(self, item_id: str) -> int:
        """The item's code. Raises `KeyError` for an item that is not in the catalogue."""
        return self._positions[item_id]

    def item(self, position: int) -> dict[str, Any]:
        """`item_id` and the attributes that have a value."""
        row = {name: self.table[name][position].as_py() for name in self._attribute_names}
        return {Columns.ITEM_ID: self.item_ids[position]} | {k: v for k, v in row.items() if flatten_value(v)}

    def attributes(self, position: int) -> dict[str, Any]:
        """The attributes that have a value."""
        return {key: value for key, value in self.item(position).items() if key != Columns.ITEM_ID}

    def has_image(self, position: int) -> bool:
        """Whether the item has a picture."""
        return self._image_source(position) is not None

    def _image_source(self, position: int) -> dict[str, Any] | None:
        if Columns.IMAGE not in self.table.column_names:
            return None
        source = self.table[Columns.IMAGE][position].as_py()
        return source if source and (source["bytes"] or source["path"]) else None

    def image(self, position: int) -> Image.Image | None:
        """The item's picture in RGB, or `None`. Raises [`ImageError`] for one that cannot be read."""
        source = self._image_source(position)
        return None if source is None else load_image(source, root=self.root)

    @property
    def available(self) -> list[bool]:
        """Per item, whether it may still be recommended."""
        return self.table[AVAILABLE].to_pylist()

    def add(self, items: Iterable[Mapping[str, Any]]) -> range:
        """Append items; returns their codes. Give the model their rows with `processor.index_catalog(model)`."""
        first = len(self)
        added = _with_defaults(_to_table(items, self.root))
        self._set_table(pa.concat_tables([self.table, added], promote_options="permissive"))
        return range(first, len(self))

    def remove(self, item_ids: Iterable[str]) -> None:
        """Never recommend these items again. They keep their codes, so that histories that hold them stay readable."""
        gone = set(item_ids)
        if unknown := gone - set(self.item_ids):
            raise ValueError(f"`item_ids` must be in the catalogue, got {sorted(unknown)[:3]}.")
        available = [a and i not in gone for a, i in zip(self.available, self.item_ids, strict=True)]
        index = self.table.column_names.index(AVAILABLE)
        self._set_table(self.table.set_column(index, AVAILABLE, pa.array(available)))

    def embed_images(self) -> dict[str, str]:
        """
        Read every picture into the catalogue itself, so that it no longer needs its folder.

        Returns:
            `dict[str, str]`: the items whose picture could not be read, with the reason. They stay, without a picture.
        """
        if Columns.IMAGE not in self.table.column_names:
            return {}
        images, unreadable = [], {}
        for position, item_id in enumerate(self.item_ids):
            source = self._image_source(position)
            try:
                images.append(source and self._embedded(source))
            except ImageError as error:
                images.append(None)
                unreadable[item_id] = str(error)
        index = self.table.column_names.index(Columns.IMAGE)
        self._set_table(self.table.set_column(index, Columns.IMAGE, pa.array(images, type=_IMAGE_TYPE)))
        if unreadable:
            examples = "; ".join(f"{item_id}: {reason}" for item_id, reason in list(unreadable.items())[:3])
            logger.warning("%d pictures could not be read and are left out (%s).", len(unreadable), examples)
        return unreadable

    def _embedded(self, source: dict[str, Any]) -> dict[str, Any]:
        load_image(source, root=self.root)
        data = source["bytes"] or Path(self.root or ".", source["path"]).read_bytes()
        return {"bytes": data, "path": None}

    def save(self, path: str | Path) -> None:
        """Write one parquet file, pictures included, that the Hub's viewer shows."""
        if any(source and not source["bytes"] for source in map(self._image_source, range(len(self)))):
            self.embed_images()
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
    """Check `item_id`, and say of every item whether it is available."""
    if Columns.ITEM_ID not in table.column_names:
        raise ValueError(f"`items` needs a column `{Columns.ITEM_ID}`, got the columns {table.column_names}.")
    column = table[Columns.ITEM_ID]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        raise ValueError(f"`{Columns.ITEM_ID}` must be text and never missing, got {column.type} values.")
    if AVAILABLE not in table.column_names:
        table = table.append_column(AVAILABLE, pa.array([True] * len(table), type=pa.bool_()))
    return table


def _to_table(items: Iterable[Mapping[str, Any]], root: str | Path | None) -> pa.Table:
    rows = [dict(item) for item in items]
    if not rows:
        raise ValueError("`items` must not be empty.")
    if not any(Columns.IMAGE in row for row in rows):
        return pa.Table.from_pylist(rows)
    images = [image_struct(row.pop(Columns.IMAGE, None), root) for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.Table.from_pydict({name: [row.get(name) for row in rows] for name in names})
    return table.append_column(Columns.IMAGE, pa.array(images, type=_IMAGE_TYPE))


def image_struct(source: Any, root: str | Path | None = None) -> dict[str, Any] | None:
    """A picture as `datasets.Image` stores it; read once, so that one that cannot be read is refused here."""
    if source is None:
        return None
    if isinstance(source, Mapping) and not (source.get("bytes") or source.get("path")):
        return None
    image = load_image(source, root=root)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}
