"""A live session: one person's history is read as it grows, and every click costs its own chunk."""

import math
from collections import deque
from collections.abc import Sequence
from copy import copy
from itertools import takewhile
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from transformers import Pipeline

from .catalog_unimp import AVAILABLE
from .chunks_unimp import Tokens
from .requests_unimp import Batch, Entry, most_recent
from .tasks_unimp import HISTORY, get_task

# Of a window that is full, the share that is still shown when its oldest chunks are left out. Without those all that
# follows is read anew: with one at a time, that would be at every click.
KEPT_SHARE = 0.75


class _Chunk(NamedTuple):
    """A chunk of the prompt: the number of its event, whether in full, and its length."""

    number: int
    full: bool
    num_tokens: int


class UniMPLiveSession:
    """
    Recommendations for one person while they click; made by [`UniMPRecommendPipeline.start_session`].

    What was read of the history stays read. A click costs its own chunk and those that it changes: where only the
    `processor.full_chunks` most recent items are shown in full, these are read again, as the oldest of them becomes
    its code alone. The answers are those of the pipeline.

    When the history has more than `processor.history_window` events, or no longer fits into `processor.max_length`
    tokens, its oldest events are left out until the rest fits into three quarters of that (`KEPT_SHARE`), and the rest
    is read anew. Clicks then fill the window again: from here on a session shows fewer old events than the pipeline
    would, from three quarters of a window up to a full one. The answers are those of the pipeline for `shown`, but
    that the first event of it still knows the time since the one before.

    A catalogue that changes meanwhile is followed, after `processor.index_catalog(model)`: the history is read anew.
    The model's weights and the processor's settings must stay as they are.

    Args:
        pipeline ([`UniMPRecommendPipeline`]): whose model and processor answer.
        history (`Sequence`): what the person did so far, as in a request.

    Attributes:
        history (`list`): all events.
        shown (`list`): the most recent of them, those that the prompt shows.
    """

    def __init__(self, pipeline: Pipeline, history: Sequence[Any] = ()) -> None:
        self._pipeline, self._task = pipeline, get_task(pipeline.task_name)
        if self._task.asks:
            raise ValueError(f"A session is for `unimp-recommend`: each {self._task.name} request asks its own.")
        self._start(history)

    @property
    def history(self) -> list[Any]:
        """All events."""
        return list(self._events)

    @property
    def shown(self) -> list[Any]:
        """The most recent events, those that the prompt shows."""
        return self._events[self._first :]

    def append(self, event: Any) -> None:
        """
        Read what the person did now.

        Args:
            event: an entry of a request's `history`: an item id, or a dictionary of an item and what is known of the
                event, or of a never-seen item.

        Raises:
            `ValueError`: as a request with this entry would; the session stays as it was.
        """
        self._refresh()
        processor = self._pipeline.processor
        # An event tells the time since the last one whose time is known.
        timed = (number for number, entry in enumerate(self._entries) if entry.event["time"] is not None)
        before = [self._events[number] for number in deque(timed, maxlen=1)]
        entry = processor._entries([*before, event], HISTORY, processor.format)[-1]
        self._read([*self._entries, entry])
        self._events.append(copy(event))

    def recommend(self, **parameters: Any) -> list[dict[str, Any]]:
        """The next items, best first; `top_k` and the other parameters are those of `unimp-recommend`."""
        parameters = self._pipeline._forward_params | self._pipeline._sanitize_parameters(**parameters)[1]
        self._refresh()
        seen = [entry.position for entry in self._entries if entry.position is not None]
        return self._pipeline.postprocess(self._pipeline._rank(self._session.rank, [seen], **parameters))[0]

    def _start(self, events: Sequence[Any]) -> None:
        processor = self._pipeline.processor
        self._entries = processor._entries(events, HISTORY, processor.format)
        self._events = [copy(event) for event in events]
        self._table, self._session = processor.catalog.table, None
        self._first, self._chunks = 0, []
        self._read(self._entries)

    def _refresh(self) -> None:
        """Follow the catalogue, and read again what could not be read."""
        table = self._pipeline.processor.catalog.table
        if table is not self._table:
            if not _same_items(table, self._table):
                self._pipeline._check_match()
                self._start(self._events)
            self._table = table
        elif self._session is not None and not self._session.is_current():
            self._start(self._events)  # clicks may come after a change of the catalogue and before its indexing
        if self._session is None or self._session.state is None:
            self._read(self._entries)

    def _read(self, entries: list[Entry]) -> None:
        """Let the prompt show `entries`, of which it shows the first ones already."""
        processor, task = self._pipeline.processor, self._task
        tokens, ending, room = processor._frame({HISTORY: []}, task, False, Batch(_no_pixels), processor.format)
        kept = self._unchanged(len(entries))
        keep = sum(chunk.num_tokens for chunk in kept)
        rest = entries[self._first + len(kept) :]
        window = processor._window(task)
        written, batch = self._write(rest, room - keep, None if window is None else max(0, window - len(kept)))
        if len(written) < len(rest):
            kept, rest = [], entries[self._first :]
            most = None if window is None else math.ceil(KEPT_SHARE * window)
            written, batch = self._write(rest, int(KEPT_SHARE * room), most)
            if not written:  # a single chunk takes most of the window
                written, batch = self._write(rest, room, window)
        first = len(entries) - len(kept) - len(written)
        chunks = [
            *kept,
            *(
                _Chunk(number, processor._in_full(len(entries) - 1 - number, task), len(chunk))
                for number, chunk in enumerate(written, start=first + len(kept))
            ),
        ]
        keep, tokens = (len(tokens) + keep, Tokens()) if kept else (0, tokens)
        for stretch in (*written, ending):
            tokens.extend(stretch)
        inputs = self._inputs(tokens, batch)  # what is wrong is told here, before anything has changed
        if processor.code_sizes is None:
            inputs["history_scores"] = processor._history_scores(entries[first:])[None].to(self._pipeline.device)
        self._chunks = []  # should reading fail, nothing counts as read
        if self._session is None:
            self._session = self._pipeline.model.start_session(**inputs)
        else:
            self._session.read(keep=keep, **inputs)
        self._first, self._chunks, self._entries = first, chunks, entries

    def _unchanged(self, num_entries: int) -> list[_Chunk]:
        """The first chunks of the prompt, those that are still to be shown as they are."""
        in_full, task = self._pipeline.processor._in_full, self._task
        return list(takewhile(lambda chunk: chunk.full == in_full(num_entries - 1 - chunk.number, task), self._chunks))

    def _write(self, entries: list[Entry], room: int, most: int | None) -> tuple[list[Tokens], Batch]:
        """Chunks of the last of `entries`, as many as fit, and their pictures and never-seen items."""
        processor = self._pipeline.processor
        batch = Batch(processor._pixel_values)
        entries = most_recent(entries, most)
        return list(processor._history(entries, self._task, False, room, batch, processor.format)), batch

    def _inputs(self, tokens: Tokens, batch: Batch) -> dict[str, Any]:
        """What the model's session takes; pictures of the catalogue that it still holds are not opened again."""
        processor = self._pipeline.processor
        held = {} if self._session is None else self._session.pictures
        known = [number for number, image in enumerate(batch.images) if isinstance(image, int) and image in held]
        new = [number for number in range(len(batch.images)) if number not in known]
        given = Batch(_no_pixels)
        given.images = [batch.images[number] for number in new]
        rows = {number: row for row, number in enumerate(new)}
        given.new_items = [(text_ids, rows.get(image)) for text_ids, image in batch.new_items]
        row = Tokens(images=list(range(len(new))))
        inputs = processor._pad([tokens], training=False) | processor._new_items(given)
        inputs |= processor._picture_tensors([row], given, self._pipeline.pictures)
        # The processor gives pictures in an order of its own; those that are known come after them.
        places = inputs["image_index"][0].tolist() if new else []
        order = dict(zip(new, places, strict=True)) | {number: len(new) + n for n, number in enumerate(known)}
        inputs["image_index"] = torch.tensor([[order[number] for number in tokens.images]], dtype=torch.long)
        inputs = {name: tensor.to(self._pipeline.device) for name, tensor in inputs.items()}
        in_order = [batch.images[number] for number in sorted(order, key=order.get)]
        return inputs | {"image_keys": [image if isinstance(image, int) else None for image in in_order]}


def _no_pixels(picture: Any) -> torch.Tensor:
    raise NotImplementedError("What uses this batch opens no picture.")


def _same_items(table: pa.Table, other: pa.Table) -> bool:
    """Whether two states of a catalogue differ at most in which items are available."""
    return table.drop_columns([AVAILABLE]).equals(other.drop_columns([AVAILABLE]))
