"""Requests with known answers, made of what a split holds out, and how they are spread over batches and processes."""

import random
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from ..processing import TASKS, Columns
from ..processing.store import as_table
from ..processing.tasks_unimp import ANSWER_KEY, HISTORY, ITEM_TO_RATE
from .mixture import MixtureSettings, make_sample, read_sequence, usable_targets

Sample = dict[str, Any]

# What an evaluation keeps beside a request: items of the whole history (`seen`), and others that the answer is ranked
# among (`others`).
ASIDE = "aside"
NUM_CANDIDATES = 100


class HeldOutSamples(Sequence[Sample]):
    """
    One request a row, with its `answer`; made anew whenever it is looked at, so that any number of rows fits into
    memory. See [`held_out_samples`].

    Attributes:
        users (`np.ndarray` of shape `(samples,)`): ids of the people.
        items (`np.ndarray` of shape `(samples,)`): ids of the items of their held-out events.
        lengths (`np.ndarray` of shape `(samples,)`): events before those.
    """

    def __init__(
        self, sequences: Dataset, task: str, item_ids: Sequence[str], seed: int, settings: MixtureSettings
    ) -> None:
        self.task, self.seed, self.settings = task, seed, settings
        self.item_ids = sorted(item_ids)  # what is drawn of them must not depend on a model's catalogue
        table = as_table(sequences)
        counts = table[Columns.ITEM_ID].combine_chunks().value_lengths().to_numpy()
        rows = np.flatnonzero(counts > 0)
        last = (np.cumsum(counts) - 1)[rows]
        names = [name for name in table.column_names if name != Columns.USER_ID]
        ends = {name: table[name].combine_chunks().flatten().take(last).to_pylist() for name in names}
        events = [dict(zip(ends, values, strict=True)) for values in zip(*ends.values(), strict=True)]
        asked = [_can_be_asked(event, count, task) for event, count in zip(events, counts[rows], strict=True)]
        self._table, self._rows = table, rows[asked]
        self.users = np.array(table[Columns.USER_ID].take(self._rows).to_pylist(), dtype=str)
        self.items = np.array(ends[Columns.ITEM_ID], dtype=str)[asked]
        self.lengths = counts[self._rows] - 1

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = self._table.slice(self._rows[index], 1).to_pylist()[0]
        events = read_sequence(row)
        target = len(events) - 1
        rng = random.Random(f"{self.seed} {row[Columns.USER_ID]} {target}")
        sample = make_sample(events, target, self.task, self.item_ids, rng, self.settings)
        sample["instruction"] = TASKS[self.task].held_out_instruction
        if isinstance(sample.get(ANSWER_KEY), str):
            sample[ASIDE] = self._aside([event[Columns.ITEM_ID] for event in events[:target]], sample[ANSWER_KEY], rng)
        return sample

    def _aside(self, seen: list[str], answer: str, rng: random.Random) -> dict[str, list[str]]:
        known = {*seen, answer}
        drawn = rng.sample(self.item_ids, min(len(self.item_ids), NUM_CANDIDATES - 1 + len(known)))
        return {"seen": seen, "others": [item for item in drawn if item not in known][: NUM_CANDIDATES - 1]}


def _can_be_asked(event: dict[str, Any], count: int, task: str) -> bool:
    """Whether the last one of `count` events has an answer to `task`."""
    events = [{}] * min(1, count - 1) + [event]
    return len(events) - 1 in usable_targets(events, task)


def held_out_samples(
    sequences: Dataset,
    task: str,
    item_ids: Sequence[str],
    seed: int = 0,
    settings: MixtureSettings | None = None,
) -> HeldOutSamples:
    """
    One request a row, with its `answer`: the last event is the target, everything before it the history. Rows whose
    last event has no answer to `task` are not asked. Every request uses the wording never trained with.

    What is drawn for a row (candidates) depends on `seed`, the person's id, the number of their events and the set of
    `item_ids` alone, so that it is the same for every model.
    """
    return HeldOutSamples(sequences, task, item_ids, seed, settings or MixtureSettings())


def without_answer(sample: Sample) -> Sample:
    """The request as it would be asked: no `answer`, and of the item to be rated only which one it is."""
    request = {key: value for key, value in sample.items() if key not in (ANSWER_KEY, ASIDE)}
    if ITEM_TO_RATE in request:
        request[ITEM_TO_RATE] = request[ITEM_TO_RATE][Columns.ITEM_ID]
    return request


def seen_items(sample: Sample) -> list[str]:
    """Items of the whole history, also of what is too long ago to be shown."""
    return sample.get(ASIDE, {}).get("seen") or [event[Columns.ITEM_ID] for event in sample[HISTORY]]


def answer_in_batches(
    samples: Sequence[Sample], answer: Callable[[list[Sample]], list[Any]], batch_size: int, title: str
) -> list[Any]:
    """
    What `answer` makes of every sample, in the order of the samples.

    Batches are of requests of like lengths, the longest first, and spread over the processes, if there are several:
    which requests share a batch does not depend on how many, so that the answers do not either. Every process runs
    equally many batches (the last one again, if need be) and gets all answers.

    Args:
        samples: the requests.
        answer: from a batch to as many answers, which can be pickled.
        batch_size (`int`): most requests a batch.
        title (`str`): of the progress bar.
    """
    if not len(samples):
        raise ValueError("`samples` is empty: got no request; give it at least one.")
    order = np.argsort(-_lengths(samples), kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    process, processes = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if several else (0, 1)
    answers: list[Any] = [None] * len(samples)
    own = []
    for start in tqdm(range(0, len(batches), processes), title, leave=False, disable=process > 0):
        batch = batches[min(start + process, len(batches) - 1)]
        own.append((batch, answer([samples[int(row)] for row in batch])))
    parts = [own]
    if several:
        parts = [None] * processes
        torch.distributed.all_gather_object(parts, own)
    for part in parts:
        for batch, found in part:
            for row, value in zip(batch, found, strict=True):
                answers[row] = value
    return answers


def _lengths(samples: Sequence[Sample]) -> np.ndarray:
    if isinstance(samples, HeldOutSamples):
        return np.minimum(samples.lengths, samples.settings.history_window)
    return np.array([len(sample[HISTORY]) for sample in samples])
