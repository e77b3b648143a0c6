"""From sequences of events to training examples of every task, and from those to batches."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset

from ..processing import TASKS, Columns, UniMPProcessor
from ..processing.tasks_unimp import get_task


# What a person did with an item is at times hidden from item answers, as callers may not know it either.
HIDEABLE = (Columns.RATING, Columns.BEHAVIOR, Columns.TIMESTAMP)

Event = dict[str, Any]


@dataclass(frozen=True)
class MixtureSettings:
    """How examples are drawn; the fields are those of [`UniMPTrainingConfig`]."""

    history_window: int = 50
    behavior_dropout: float = 0.2
    num_candidates: int = 3


def usable_targets(events: Sequence[Event], task: str) -> list[int]:
    """Positions of the events that an example of `task` can end with."""
    if task == "recommend":
        return list(range(1, len(events)))
    needed = {"search": Columns.QUERY, "rate": Columns.RATING, "explain": Columns.EXPLANATION}.get(task)
    also = Columns.RATING if task == "explain" else needed
    return [
        index for index, event in enumerate(events) if needed is None or (_has(event, needed) and _has(event, also))
    ]


def _has(event: Event, column: str) -> bool:
    return event.get(column) not in (None, "")


def read_sequence(row: Mapping[str, Any]) -> list[Event]:
    """A row of a sequence data set as a list of events, oldest first."""
    columns = [name for name in row if name != Columns.USER_ID]
    return [dict(zip(columns, values, strict=True)) for values in zip(*(row[name] for name in columns), strict=True)]


def make_sample(
    events: Sequence[Event], target: int, task: str, item_ids: Sequence[str], rng: random.Random, settings: MixtureSettings
) -> dict[str, Any]:
    """
    The request that `events[target]` answers, with its `answer`, see [`UniMPProcessor.__call__`]: everything before the
    target is its history, and nothing after it is used (a selection's second positive, itself an answer, excepted).
    """
    history = list(events[max(0, target - settings.history_window) : target])
    sample: dict[str, Any] = {"history": history}
    if task in ("rate", "explain"):
        item = {key: value for key, value in events[target].items() if key != Columns.BEHAVIOR}
        return sample | {"item": item}
    if task == "search":
        sample["query"] = events[target][Columns.QUERY]
    if task == "select":
        return sample | _draw_candidates(events, target, item_ids, rng, settings.num_candidates)
    return sample | {"answer": events[target][Columns.ITEM_ID]}


def _draw_candidates(
    events: Sequence[Event], target: int, item_ids: Sequence[str], rng: random.Random, num_candidates: int
) -> dict[str, Any]:
    """Candidates of which one (60% of the time) or two will be chosen (UniMP, task "select")."""
    wanted = 1 if rng.random() < 0.6 else 2
    chosen = list(dict.fromkeys(event[Columns.ITEM_ID] for event in events[target : target + wanted]))
    known = {event[Columns.ITEM_ID] for event in events}
    others = [item_id for item_id in rng.sample(item_ids, min(len(item_ids), 20 + len(known))) if item_id not in known]
    candidates = chosen + others[: num_candidates - len(chosen)]
    rng.shuffle(candidates)
    return {"candidates": candidates, "answer": [item_id for item_id in candidates if item_id in chosen]}


def lay_out_examples(
    sequences: Dataset, item_ids: Sequence[str], tasks: Sequence[str], num_passes: int, seed: int, settings: MixtureSettings
) -> Dataset:
    """
    Every training example of every pass over the people, in advance: per person and pass one example of each task that
    their events allow, and of "recommend" as many as it takes to cover their history.

    A row is a person, a task and a seed that settles the rest (target, wording, candidates), so that a resumed run
    sees what the interrupted one would have seen, however many processes read it.
    """
    lengths = [len(items) for items in sequences[Columns.ITEM_ID]]
    rows = []
    for user, length in enumerate(lengths):
        events = read_sequence(sequences[user])
        for task in tasks:
            if usable_targets(events, task):
                windows = -(-length // settings.history_window) if task == "recommend" else 1
                rows += [(user, task)] * (windows * num_passes)
    rng = random.Random(seed)
    examples = Dataset.from_dict(
        {
            "user": [user for user, _ in rows],
            "task": [task for _, task in rows],
            "seed": [rng.getrandbits(62) for _ in rows],
        }
    )
    return examples.with_transform(partial(_draw, sequences=sequences, item_ids=item_ids, settings=settings))


def _draw(rows: dict[str, list], sequences: Dataset, item_ids: Sequence[str], settings: MixtureSettings) -> dict[str, list]:
    samples = []
    for user, task, seed in zip(rows["user"], rows["task"], rows["seed"], strict=True):
        rng = random.Random(seed)
        events = read_sequence(sequences[user])
        targets = usable_targets(events, task)
        # A next-item example has a target at every step: its window is best a full one.
        late = [target for target in targets if target >= settings.history_window] or targets[-1:]
        target = rng.choice(late if task == "recommend" else targets)
        if TASKS[task].answer == "item" and rng.random() < settings.behavior_dropout:
            events = [{key: value for key, value in event.items() if key not in HIDEABLE} for event in events]
        sample = make_sample(events, target, task, item_ids, rng, settings)
        samples.append(sample | {"instruction": rng.choice(get_task(task).instructions)})
    return {"task": rows["task"], "sample": samples}


class UniMPCollator:
    """
    Examples to the keyword arguments of the model, with `roles` and `loss_weights` beside them.

    Args:
        processor ([`UniMPProcessor`]): writes the chunks.
        task_weights (`dict[str, float]`): weight of each task's tokens; 1 where not given.
        role_weights (`dict[str, float]`): weight of `item`, `rating` and `explanation` tokens; 1 where not given.
        catalog_features (`torch.Tensor`, *optional*): [`UniMPProcessor.encode_pictures`] of the catalogue.
    """

    ROLES = ("none", "item", "rating", "explanation")

    def __init__(
        self,
        processor: UniMPProcessor,
        task_weights: Mapping[str, float],
        role_weights: Mapping[str, float],
        catalog_features: torch.Tensor | None = None,
    ) -> None:
        self.processor = processor
        self.task_weights = task_weights
        self.role_weights = torch.tensor([0.0, *(float(role_weights.get(role, 1.0)) for role in self.ROLES[1:])])
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
        return dict(batch)
