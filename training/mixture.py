"""From sequences of events to training examples of every task, and from those to batches."""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import Sampler

from ..processing import TASKS, Columns, UniMPProcessor
from ..processing.chunks_unimp import ITEM_ROLE, NO_ROLE, QUERY_ANSWER_ROLE, TEXT_ROLES
from ..processing.picture_store_unimp import NoPictures, PictureStore
from ..processing.tasks_unimp import CANDIDATES

logger = logging.getLogger(__name__)

# What a person did with the items of a history is at times hidden, as callers may not know it either.
HIDEABLE = (Columns.RATING, Columns.BEHAVIOR, Columns.TIMESTAMP)

# Of these, an example has an answer at (almost) each step of its history.
DENSE_TASKS = ("recommend", "rate")

Event = dict[str, Any]


@dataclass(frozen=True)
class MixtureSettings:
    """
    How examples are drawn.

    Attributes:
        history_window: most events of a history.
        behavior_dropout: how often ratings, kinds and times of its history are hidden from an example. What is asked
            about is never hidden.
        num_candidates: candidates of a selection.
        dense: whether each step of a history is a target too, as with `code_first` chunks. An example of
            `DENSE_TASKS` then best ends where its window is full; otherwise it may end with any event.
    """

    history_window: int = 50
    behavior_dropout: float = 0.2
    num_candidates: int = 3
    dense: bool = True


class Events(Sequence[Event]):
    """The events of a row, oldest first; each is put together when it is asked for: an example shows only a few."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._columns = {name: values for name, values in row.items() if name != Columns.USER_ID}

    def __len__(self) -> int:
        return len(self._columns[Columns.ITEM_ID])

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return {name: values[index] for name, values in self._columns.items()}


def read_sequence(row: Mapping[str, Any]) -> list[Event]:
    """A row of a sequence data set as a list of events, oldest first."""
    return Events(row)[:]


def usable_targets(events: Sequence[Event], task: str) -> list[int]:
    """Positions of the events that an example of `task` can end with."""
    first = 1 if task in ("recommend", "select") else 0  # these ask about nothing but the history
    needed = {
        "search": (Columns.QUERY,),
        "rate": (Columns.RATING,),
        "explain": (Columns.RATING, Columns.EXPLANATION),
    }.get(task, ())
    if not needed:
        return list(range(first, len(events)))
    return [
        position for position in range(first, len(events)) if all(_is_given(events[position].get(c)) for c in needed)
    ]


def _is_given(value: Any) -> bool:
    return value not in (None, "") and value == value  # NaN is not equal to itself


def make_sample(
    events: Sequence[Event],
    target: int,
    task: str,
    item_ids: Sequence[str],
    rng: random.Random,
    settings: MixtureSettings,
) -> dict[str, Any]:
    """
    The request that `events[target]` answers, with its `answer`, see [`UniMPProcessor.__call__`]. Its history is what
    came before the answer; nothing after `target` is used.
    """
    if task == "select":
        return _make_selection(events, target, item_ids, rng, settings)
    sample: dict[str, Any] = {"history": _history(events, target, settings)}
    event = events[target]
    if task in ("rate", "explain"):  # what the person did with the item (bought, viewed) would hint at the rating
        unasked = (Columns.BEHAVIOR, Columns.TIMESTAMP)  # and whoever asks now has not done it yet
        return sample | {"item": {key: value for key, value in event.items() if key not in unasked}}
    if task == "search":
        sample["query"] = event[Columns.QUERY]
    return sample | {"answer": event[Columns.ITEM_ID]}


def _history(events: Sequence[Event], end: int, settings: MixtureSettings) -> list[Event]:
    return list(events[max(0, end - settings.history_window) : end])


def _make_selection(
    events: Sequence[Event], target: int, item_ids: Sequence[str], rng: random.Random, settings: MixtureSettings
) -> dict[str, Any]:
    """Candidates of which the last one (60% of the time) or two events chose (UniMP, task "select")."""
    start = target if rng.random() < 0.6 else max(1, target - 1)
    chosen = list(dict.fromkeys(event[Columns.ITEM_ID] for event in events[start : target + 1]))
    known = {event[Columns.ITEM_ID] for event in events[: target + 1]}
    drawn = rng.sample(item_ids, min(len(item_ids), settings.num_candidates + len(known)))
    others = [item_id for item_id in drawn if item_id not in known]
    candidates = chosen + others[: settings.num_candidates - len(chosen)]
    rng.shuffle(candidates)
    return {
        "history": _history(events, start, settings),
        "candidates": candidates,
        "answer": [item_id for item_id in candidates if item_id in chosen],
    }


def lay_out_examples(
    sequences: Dataset,
    item_ids: Sequence[str],
    task_rates: Mapping[str, float],
    num_passes: int,
    seed: int,
    settings: MixtureSettings,
) -> Dataset:
    """
    Every training example of every pass over the people, in advance: per person and pass `task_rates[task]` examples
    of each task that their events allow, and of `DENSE_TASKS` as many times that as it takes to cover their history.

    A row is a person, a task, the events that its history has and a seed that settles the rest (target, wording,
    candidates), so that a resumed run sees what the interrupted one would have seen, however many processes read it.
    """
    rows, choices, rng = [], [], random.Random(seed)
    for user, sequence in enumerate(sequences):
        events = read_sequence(sequence)
        for task, rate in task_rates.items():
            if targets := _targets(events, task, settings):
                windows = -(-len(events) // max(1, settings.history_window)) if task in DENSE_TASKS else 1
                count = rate * windows * num_passes
                rows += [(user, task)] * int(count + rng.random())  # the fraction left over, by chance
                choices += [targets] * (len(rows) - len(choices))
    users, tasks = zip(*rows, strict=True) if rows else ((), ())
    _report(tasks, task_rates)
    seeds = [rng.getrandbits(62) for _ in rows]
    # What a seed settles first is which events an example shows, see `_draw_sample`.
    lengths = [
        _draw_events(targets, task, random.Random(seed), settings)[1]
        for targets, task, seed in zip(choices, tasks, seeds, strict=True)
    ]
    examples = Dataset.from_dict({"user": users, "task": tasks, "length": lengths, "seed": seeds})
    return examples.with_transform(partial(_draw, sequences=sequences, item_ids=item_ids, settings=settings))


def _report(tasks: Sequence[str], task_rates: Mapping[str, float]) -> None:
    counts = Counter(tasks)
    if missing := [task for task, rate in task_rates.items() if rate and not counts[task]]:
        logger.warning("Left out, as no event has an answer to it: %s.", ", ".join(missing))
    if counts:
        logger.info("Examples: %s.", ", ".join(f"{task} {count:,}" for task, count in counts.items()))


def _draw(
    rows: dict[str, list], sequences: Dataset, item_ids: Sequence[str], settings: MixtureSettings
) -> dict[str, list]:
    """The transform of [`lay_out_examples`]: rows to what [`UniMPCollator`] takes."""
    samples = [
        _draw_sample(Events(sequences[user]), task, item_ids, random.Random(seed), settings)
        for user, task, seed in zip(rows["user"], rows["task"], rows["seed"], strict=True)
    ]
    return {"task": rows["task"], "sample": samples}


def _targets(events: Sequence[Event], task: str, settings: MixtureSettings) -> list[int]:
    """Positions of the events that a training example of `task` may end with."""
    targets = usable_targets(events, task)
    if task in DENSE_TASKS and settings.dense:
        targets = [target for target in targets if target >= settings.history_window] or targets[-1:]
    return targets


def _draw_events(targets: Sequence[int], task: str, rng: random.Random, settings: MixtureSettings) -> tuple[int, int]:
    """The event that an example ends with, and how many before it are shown."""
    target = rng.choice(targets)
    shown = min(target, settings.history_window)
    # Whoever searches may be anybody, and what a query means is learned sooner where there is nothing else to go by.
    # In "recommend" and "rate" every length comes by itself, as each event is predicted from those before it.
    if task == "search" and rng.random() < 0.5:
        shown = 0
    return target, shown


def _draw_sample(
    events: Sequence[Event], task: str, item_ids: Sequence[str], rng: random.Random, settings: MixtureSettings
) -> dict[str, Any]:
    # First of all: `lay_out_examples` counts on it.
    target, shown = _draw_events(_targets(events, task, settings), task, rng, settings)
    hidden = HIDEABLE if rng.random() < settings.behavior_dropout else ()
    sample = make_sample(events, target, task, item_ids, rng, replace(settings, history_window=shown))
    history = [{key: value for key, value in event.items() if key not in hidden} for event in sample["history"]]
    return sample | {"history": history, "instruction": rng.choice(TASKS[task].instructions)}


class AlikeBatchesSampler(Sampler[int]):
    """
    Random order, but each batch holds requests of one kind and of like lengths: those that show a long history in
    codes, those that show a short one in full and those that show what people said of it differ in length, as do
    people, and padding one to the other costs more than it mixes.

    Args:
        tasks (`Sequence[str]`): task of each example.
        lengths (`Sequence[int]`): events of each example's history.
        batch_size (`int`): examples a batch.
        seed (`int`): of the order; the same in every process and in a resumed run.
    """

    BATCHES_SORTED = 50  # so many batches at a time are sorted by length

    def __init__(self, tasks: Sequence[str], lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.kinds = np.array([2 * bool(TASKS[task].shows) + TASKS[task].full_history for task in tasks])
        self.lengths = np.array(lengths)
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.kinds)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(self))
        stretch = np.arange(len(self)) // (self.batch_size * self.BATCHES_SORTED)
        order = order[np.lexsort((self.lengths[order], stretch, self.kinds[order]))]
        starts = np.arange(0, len(order), self.batch_size)
        # The last batch may be short: it stays last, so that all others are whole.
        starts[:-1] = rng.permutation(starts[:-1])
        return iter(np.concatenate([order[start : start + self.batch_size] for start in starts]).tolist())


class UniMPCollator:
    """
    Examples to the keyword arguments of the model, with `roles` and `loss_weights` beside them.

    Args:
        processor ([`UniMPProcessor`]): writes the chunks.
        task_weights (`dict[str, float]`): weight of each task's tokens; 1 where not given.
        role_weights (`dict[str, float]`): weight of `item`, `query_answer`, `rating` and `explanation` tokens; 1 where
            not given.
        num_later (`int`, defaults to 0): how many items after the next one are to be expected too; of each the first
            token.
        catalog_features ([`PictureStore`], *optional*): [`UniMPProcessor.encode_pictures`] of the catalogue.
    """

    ROLES = {ITEM_ROLE: "item", QUERY_ANSWER_ROLE: "query_answer"} | {role: name for name, role in TEXT_ROLES.items()}

    def __init__(
        self,
        processor: UniMPProcessor,
        task_weights: Mapping[str, float],
        role_weights: Mapping[str, float],
        num_later: int = 0,
        catalog_features: PictureStore | NoPictures | None = None,
    ) -> None:
        self.processor = processor
        self.task_weights = task_weights
        by_role = {NO_ROLE: 0.0} | {role: float(role_weights.get(name, 1.0)) for role, name in self.ROLES.items()}
        self.role_weights = torch.tensor([by_role[role] for role in sorted(by_role)])
        self.num_later = num_later
        self.catalog_features = catalog_features

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch."""
        tasks = [example["task"] for example in examples]
        batch = self.processor(
            [example["sample"] for example in examples],
            task=tasks,
            training=True,
            catalog_features=self.catalog_features,
        )
        task_weights = torch.tensor([float(self.task_weights.get(task, 1.0)) for task in tasks])
        batch["loss_weights"] = task_weights[:, None] * self.role_weights[batch["roles"]]
        if self.num_later:
            sets = torch.tensor([TASKS[task].asks == CANDIDATES for task in tasks])  # whose order means nothing
            # An item's first token tells what it is like; the others mean something only after that one.
            first, labels = self.processor.format.first_item_id, batch["labels"]
            is_item = (labels >= first) & (labels < first + self.processor.level_sizes[0]) & ~sets[:, None]
            batch["later_labels"] = later_items(labels, is_item, self.num_later)
        return dict(batch)


def later_items(labels: torch.Tensor, is_item: torch.Tensor, num_later: int) -> torch.Tensor:
    """
    Beside each label that `is_item`, the next `num_later` such labels of its row; -100 where there is none.

    Args:
        labels (`torch.Tensor` of shape `(batch, tokens)`): labels.
        is_item (`torch.Tensor` of shape `(batch, tokens)`): which of them are items.
        num_later (`int`): how many.

    Returns:
        `torch.Tensor` of shape `(batch, tokens, num_later)`.
    """
    later = labels.new_full((*labels.shape, num_later), -100)
    for row, row_labels, row_is_item in zip(later, labels, is_item, strict=True):
        items = nn.functional.pad(row_labels[row_is_item], (0, num_later), value=-100)
        row[row_is_item] = items.unfold(0, num_later, 1)[1:]
    return later
