"""The chunk format: how one event of a history becomes tokens, in training and inference alike."""

import bisect
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from .catalog_unimp import flatten_attributes, shown
from .columns_unimp import Columns
from .tasks_unimp import Task, is_list, write_answer

# The model's own token rows, right after the text vocabulary; the item codes follow them.
MARKERS = ("<image>", "<|endofchunk|>", "<|item|>", "<|answer|>")
IMAGE, END_OF_CHUNK, ITEM, ANSWER = MARKERS

# What a labelled token is, for the loss to weigh: the next item, a rating, an explanation, what answers a query.
NO_ROLE, ITEM_ROLE, RATING_ROLE, EXPLANATION_ROLE, QUERY_ANSWER_ROLE = range(5)
TEXT_ROLES = {Columns.RATING: RATING_ROLE, Columns.EXPLANATION: EXPLANATION_ROLE}

# Rows of the behaviour table (0: none), by kind of behaviour. An event carries one of each.
RATING_BUCKETS, GAP_BUCKETS, PERIOD_BUCKETS = 10, 20, 32
FIRST_RATING = 1
FIRST_GAP = FIRST_RATING + RATING_BUCKETS
FIRST_PERIOD = FIRST_GAP + GAP_BUCKETS
FIRST_KIND = FIRST_PERIOD + PERIOD_BUCKETS
Behaviors = tuple[int, int, int, int]  # rating, kind, gap, period
NO_BEHAVIOR = (0, 0, 0, 0)


@dataclass
class Tokens:
    """A stretch of the prompt: token ids, beside each its role and behaviours; what each `<image>` token shows."""

    ids: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)
    behaviors: list[Behaviors] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[int], role: int = NO_ROLE, behaviors: Behaviors = NO_BEHAVIOR) -> "Tokens":
        """Append tokens that share a role and behaviours."""
        self.ids += ids
        self.roles += [role] * len(ids)
        self.behaviors += [behaviors] * len(ids)
        return self

    def extend(self, other: "Tokens") -> "Tokens":
        """Append another stretch."""
        self.ids += other.ids
        self.roles += other.roles
        self.behaviors += other.behaviors
        self.images += other.images
        return self


@dataclass(frozen=True)
class Event:
    """
    One event of a history, looked up.

    Attributes:
        code: rows of the item's code tokens, one a level; those past the catalogue's are the new items of this batch.
        text_ids: the item's attributes as tokens.
        image: number of its picture in this batch, if it has one.
        rating, explanation, behavior: what the person did with it.
        time: seconds since 1970.
        gap: seconds since the event before.
    """

    code: Sequence[int]
    text_ids: Sequence[int]
    image: int | None
    rating: float | None = None
    explanation: str | None = None
    behavior: str | None = None
    time: float | None = None
    gap: float | None = None


def rating_scale(rating_range: Any, rating_levels: Any = None) -> tuple[list[float], list[float]]:
    """
    Lowest and highest rating, and the ratings that people give, checked: by default the whole numbers between the two,
    or the two themselves where there is none. Raises `ValueError` for what is no such thing.
    """
    scale = _floats(rating_range)
    if scale is None or len(scale) != 2 or scale[0] > scale[1]:
        raise ValueError(
            f"`rating_range` must be the lowest and the highest rating, such as (1, 5), got {shown(rating_range)}."
        )
    low, high = scale
    if rating_levels is None:
        whole = range(math.ceil(low), math.floor(high) + 1)
        return scale, [float(level) for level in whole] or sorted({low, high})
    levels = _floats(rating_levels)
    if not levels or not all(low <= level <= high for level in levels):
        raise ValueError(f"`rating_levels` must be numbers within {scale}, got {shown(rating_levels)}.")
    return scale, levels


def check_periods(periods: Any) -> list[float]:
    """`periods` of a [`ChunkFormat`], or a `ValueError`."""
    times = _floats(periods)
    if times is None or len(times) >= PERIOD_BUCKETS or times != sorted(times):
        raise ValueError(
            f"`periods` must be at most {PERIOD_BUCKETS - 1} times in seconds, ascending, got {shown(periods)}."
        )
    return times


def _floats(values: Any) -> list[float] | None:
    """`None` for what is no list of finite numbers."""
    if not is_list(values) or not all(isinstance(value, numbers.Real) for value in values):
        return None
    return [float(value) for value in values] if all(map(math.isfinite, values)) else None


class ChunkFormat:
    """
    Writes events as tokens (UniMP, section "Unified data format").

    Args:
        tokenizer: the decoder's.
        text_vocab_size (`int`): size of the decoder's text vocabulary; markers and item codes come after it.
        order (`"code_first"` or `"code_last"`): where an item's code stands in its chunk. `code_last` is the paper's:
            a code is predicted from the item's own picture and text. With `code_first` it is predicted from everything
            before the item, so that every step of a history is a next-item target.
        rating_range (`tuple[float, float]`): lowest and highest rating.
        behavior_kinds (`Sequence[str]`): kinds of events, such as purchase and view.
        periods (`Sequence[float]`): times, ascending, at which a new period of the calendar begins: what was bought
            depends on when. At most 31; seconds since 1970.
        max_words (`int`): words kept of a text field.
        item_text_length (`int`): tokens kept of an item's text.
        tokens_per_image (`int`): `<image>` tokens that show a picture.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_vocab_size: int,
        order: str,
        rating_range: tuple[float, float],
        behavior_kinds: Sequence[str],
        periods: Sequence[float],
        max_words: int,
        item_text_length: int,
        tokens_per_image: int,
    ) -> None:
        if order not in ("code_first", "code_last"):
            raise ValueError(f"`order` must be 'code_first' or 'code_last', got {order!r}.")
        self.tokenizer = tokenizer
        self.marker_ids = {marker: text_vocab_size + n for n, marker in enumerate(MARKERS)}
        self.first_item_id = text_vocab_size + len(MARKERS)
        self.order = order
        self.rating_range = tuple(rating_range)
        self.behavior_kinds = list(behavior_kinds)
        self.periods = list(periods)
        self.max_words = max_words
        self.item_text_length = item_text_length
        self.tokens_per_image = tokens_per_image

    def text(self, text: str) -> list[int]:
        """Token ids of a text; what looks like a special token in it is text like any other."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # half an emoji, from a text cut elsewhere, is no text
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def item_text(self, attributes: dict[str, Any]) -> list[int]:
        """Token ids of an item's attributes."""
        return self.text(flatten_attributes(attributes, self.max_words))[: self.item_text_length]

    def marker(self, marker: str) -> list[int]:
        """The token of one of `MARKERS`."""
        return [self.marker_ids[marker]]

    def code(self, code: Sequence[int]) -> list[int]:
        """The tokens of an item."""
        return [self.first_item_id + row for row in code]

    def chunk(self, event: Event, task: Task, *, full: bool, labelled: bool, ask: bool = False) -> Tokens:
        """
        An event as tokens.

        Args:
            full: show picture and attributes, or the item's code alone (and the answer that `task` shows).
            labelled: give the tokens that `task` predicts inside a history their role.
            ask: stop where the task's text answer begins.
        """
        role = ITEM_ROLE if labelled and task.answer == "item" else NO_ROLE
        *first, last = self.code(event.code)
        # On an earlier token, what the person did would tell of the item's tokens that are still to be predicted.
        code = Tokens().add(first, role).add([last], role, self._behaviors(event, task))
        if not full:  # the rating that a task reads and predicts takes few tokens: it stays
            return code.extend(self._answer(event, task, labelled=labelled, ask=ask)) if task.shows else code
        content = Tokens()
        if event.image is not None:
            # VIP5 shows a picture after the text; before it, a decoder reads the text with the picture in mind.
            content.add(self.marker(IMAGE) * self.tokens_per_image)
            content.images += [event.image] * self.tokens_per_image
        content.add(event.text_ids)
        if task.shows:
            content.extend(self._answer(event, task, labelled=labelled, ask=ask))
        if self.order == "code_first":
            chunk = code.extend(content)
        elif ask:
            chunk = content
        else:
            chunk = content.add(self.marker(ITEM)).extend(code)
        return chunk if ask else chunk.add(self.marker(END_OF_CHUNK))

    def _answer(self, event: Event, task: Task, *, labelled: bool, ask: bool) -> Tokens:
        """The event columns that `task` shows: `<|answer|>`, the text, the end of the text."""
        if ask:
            return Tokens().add(self.marker(ANSWER))
        explanation = event.explanation if Columns.EXPLANATION in task.shows else None
        spans = write_answer(event.rating, explanation)
        if not spans:
            return Tokens()
        tokens = Tokens().add(self.marker(ANSWER))
        for column, text in spans:
            tokens.add(self.text(text), TEXT_ROLES[column] if labelled else NO_ROLE)
        return tokens.add([self.tokenizer.eos_token_id], tokens.roles[-1])

    def valid_rating(self, rating: float) -> bool:
        """Whether a rating lies within `rating_range`."""
        return self.rating_range[0] <= rating <= self.rating_range[1]

    def _behaviors(self, event: Event, task: Task) -> Behaviors:
        rating = kind = gap = period = 0
        if event.rating is not None and Columns.RATING not in task.shows:  # a rating to be predicted is not given away
            low, high = self.rating_range
            rating = FIRST_RATING + round((event.rating - low) / max(high - low, 1e-9) * (RATING_BUCKETS - 1))
        if event.gap is not None:
            gap = FIRST_GAP + min(GAP_BUCKETS - 1, int(math.log2(1 + max(0.0, event.gap)) / 1.5))
        if event.time is not None and self.periods:
            period = FIRST_PERIOD + bisect.bisect_right(self.periods, event.time)
        if event.behavior is not None:
            kind = FIRST_KIND + self.behavior_kinds.index(event.behavior)
        return rating, kind, gap, period
