"""The parts of a request while it is read: its items, and what a batch of requests has in common."""

import datetime
import math
import numbers
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .catalog_unimp import is_missing, shown
from .columns_unimp import Columns
from .images_unimp import ImageError, load_image, unpack
from .tasks_unimp import is_list


@dataclass(frozen=True)
class Entry:
    """
    An item of a request, checked but not read.

    Attributes:
        position: the item's code; `None` for a never-seen item.
        attributes, image: what is known of a never-seen item.
        event: what the person did with it, as arguments of [`Event`].
    """

    position: int | None
    attributes: Mapping[str, Any]
    image: Any
    event: Mapping[str, Any]


def most_recent(entries: Sequence[Any], most: int | None) -> Sequence[Any]:
    """The last `most` of them, oldest first; all for `None`."""
    return entries if most is None else entries[max(0, len(entries) - most) :]


class Batch:
    """
    The distinct pictures and never-seen items of one batch.

    Args:
        to_pixels: what becomes of a picture, at once: at its own size it is not kept.
    """

    def __init__(self, to_pixels: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images: list[torch.Tensor | int] = []  # a picture's pixels, or the code of the item it belongs to
        self.new_items: list[tuple[Sequence[int], int | None]] = []
        self._to_pixels = to_pixels
        self._numbers: dict[Hashable, int] = {}
        self._sources: list[Any] = []  # kept alive, as a picture is told from another by its identity

    def catalog_image(self, position: int) -> int:
        if position not in self._numbers:
            self._numbers[position] = len(self.images)
            self.images.append(position)
        return self._numbers[position]

    def new_image(self, source: Any) -> int:
        key = _picture_key(source)
        if key not in self._numbers:
            try:
                pixels = self._to_pixels(load_image(source))
            except ImageError as error:
                raise ImageError(f"`{Columns.IMAGE}` of a never-seen item: {error}") from error
            self._numbers[key] = len(self.images)
            self._sources.append(source)
            self.images.append(pixels)
        return self._numbers[key]

    def new_item(self, text_ids: Sequence[int], image: int | None) -> int:
        self.new_items.append((text_ids, image))
        return len(self.new_items) - 1


def _picture_key(source: Any) -> Hashable:
    """Equal for what is the same picture; never an item code."""
    source = unpack(source)
    if isinstance(source, str | Path | bytes):
        return type(source).__name__, str(source) if isinstance(source, Path) else source
    return "object", id(source)


def match_tasks(samples: Any, task: Any) -> tuple[list[Any], list[Any]]:
    """Samples and the task of each."""
    samples = [samples] if isinstance(samples, Mapping) else samples
    if not is_list(samples) or not len(samples):
        raise ValueError(f"`samples` must be a request (a dictionary) or a list of them, got {shown(samples)}.")
    tasks = list(task) if is_list(task) else [task] * len(samples)
    if len(tasks) != len(samples):
        raise ValueError(f"`task` must be one name, or one for each of {len(samples)} samples, got {len(tasks)}.")
    return list(samples), tasks


def seconds(time: Any) -> float | None:
    """A timestamp as seconds since 1970: a number, a date or its text; UTC where a moment does not name its zone."""
    if is_missing(time):
        return None
    if isinstance(time, str):
        time = _time_of_text(time)
    if isinstance(time, datetime.date) and not isinstance(time, datetime.datetime):
        time = datetime.datetime(time.year, time.month, time.day)
    if isinstance(time, datetime.datetime):
        return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()
    if not isinstance(time, numbers.Real) or isinstance(time, bool) or not math.isfinite(time):
        raise ValueError(f"`{Columns.TIMESTAMP}` must be seconds since 1970, a date or missing, got {shown(time)}.")
    return float(time)


def _time_of_text(text: str) -> float | datetime.datetime:
    for read in (float, datetime.datetime.fromisoformat):
        with suppress(ValueError):
            return read(text)
    raise ValueError(
        f"`{Columns.TIMESTAMP}` must be seconds since 1970 or a date such as 2026-05-01 10:00, got {shown(text)}."
    )
