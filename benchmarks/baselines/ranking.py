"""How well a baseline ranks what comes next, and which of its settings does so best on validation."""

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from unimp.training.metrics import ranking_values, target_ranks

from .data import EncodedSplit, Events, TrainingData

logger = logging.getLogger(__name__)

SELECTION = ("ndcg@10", "mrr@10")
Settings = dict[str, Any]


class Ranker(Protocol):
    """A recommender; a dataclass whose fields are its settings.

    `SCORING_SETTINGS` names the fields that [`fit`] does not read: trials that differ in nothing else are fitted once.
    """

    SCORING_SETTINGS: tuple[str, ...] = ()

    def fit(self, data: TrainingData, validate: Callable[[], float] | None = None, seed: int = 0) -> None:
        """Learns from `data`. What is trained step by step may ask `validate` how good it is, and keep its best."""
        ...

    def score(self, histories: Events) -> np.ndarray:
        """How likely each item comes next, `(num_rows, num_items)`, float32; higher is better."""
        ...


Figure = Callable[[Ranker, Events], float]


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The best of several trials.

    Attributes:
        ranker (`Ranker`): fitted with the best settings.
        settings (`dict`): those settings.
        trials (`list[dict]`): of every trial `settings`, `figure` and `seconds`, in the order they were made.
    """

    ranker: Ranker
    settings: Settings
    trials: list[dict[str, Any]]


def rank(ranker: Ranker, rows: Events, candidates: np.ndarray | None = None, batch_size: int = 256) -> np.ndarray:
    """The rank of each row's last event among all items that are not in the row's history.

    Args:
        ranker ([`Ranker`]): fitted.
        rows ([`Events`]): the last event of each is the target, the others are the history.
        candidates (`np.ndarray` of shape `(num_items,)`, *optional*): true for the items to rank among; all of them
            by default.
        batch_size (`int`, *optional*, defaults to 256): rows scored at a time.

    Returns:
        `np.ndarray` of shape `(num_rows,)`: as from [`target_ranks`]; inf where the target is in the history or no
        candidate.
    """
    histories, targets = rows.histories(), rows.items[rows.last]
    ranks = []
    for start in range(0, len(rows), batch_size):
        batch = histories.rows(start, start + batch_size)
        scores = np.array(ranker.score(batch), dtype=np.float32)
        scores[batch.row_of_event, batch.items] = -np.inf
        if candidates is not None:
            scores[:, ~candidates] = -np.inf
        ranks.append(target_ranks(scores, targets[start : start + batch_size]))
    return np.concatenate(ranks)


def user_values(ranks: np.ndarray, users: Sequence[Any]) -> dict[str, np.ndarray]:
    """Figures of each user by name, `(num_users,)`: the mean over the user's rows.

    Args:
        ranks (`np.ndarray` of shape `(num_rows,)` or `(num_seeds, num_rows)`): from [`rank`].
        users (`Sequence` of length `num_rows`): whose row it is; the users come out sorted.
    """
    ranks = np.atleast_2d(ranks)
    _, number = np.unique(np.asarray(users), return_inverse=True)
    values = ranking_values(ranks.ravel(), (10,))
    means = {name: figures.reshape(ranks.shape).mean(0) for name, figures in values.items()}
    return {name: np.bincount(number, figures) / np.bincount(number) for name, figures in means.items()}


def selection_figure(ranker: Ranker, validation: Events) -> float:
    """What settings are chosen by: NDCG@10 + MRR@10, mean over the users."""
    # Users that are not in training are all numbered -1: each of their rows is a person.
    users = np.where(validation.users >= 0, validation.users, -1 - np.arange(len(validation)))
    values = user_values(rank(ranker, validation), users)
    return float(sum(values[name].mean() for name in SELECTION))


def fit(ranker: Ranker, split: EncodedSplit, seed: int = 0, figure_of: Figure = selection_figure) -> None:
    """Fits on the training part; validation tells when to stop."""
    ranker.fit(split.train, lambda: figure_of(ranker, split.validation), seed)


def tune(
    make: Callable[..., Ranker],
    grid: Sequence[Mapping[str, Any]],
    split: EncodedSplit,
    seed: int = 0,
    figure_of: Figure = selection_figure,
) -> Tuned:
    """Fits every settings of `grid` on the training part and keeps the one with the highest figure on validation.

    The test part is never read. Of equally good settings the first stays.

    Args:
        make (`Callable`): from settings to a [`Ranker`], such as its class.
        grid (`Sequence[Mapping]`): the settings to try.
        split ([`EncodedSplit`]): the data.
        seed (`int`, *optional*, defaults to 0): of what the rankers draw.
        figure_of (`Callable`, *optional*, defaults to [`selection_figure`]): from a ranker and the validation part to
            what is to be high.
    """
    if not grid:
        raise ValueError("`grid` is empty: got no settings to try; give at least one, such as {}.")
    trials, best = [], None
    ranker, fitted_with = None, None
    for settings in grid:
        start = time.perf_counter()
        ranker, fitted_with = _fitted(make(**settings), ranker, fitted_with, split, seed, figure_of)
        figure = figure_of(ranker, split.validation)
        trials.append({"settings": dict(settings), "figure": figure, "seconds": time.perf_counter() - start})
        logger.info("%s", trials[-1])
        if best is None or figure > best[0]:
            best = figure, ranker, dict(settings)
    return Tuned(best[1], best[2], trials)


def _fitted(
    ranker: Ranker,
    previous: Ranker | None,
    fitted_with: Settings | None,
    split: EncodedSplit,
    seed: int,
    figure_of: Figure,
) -> tuple[Ranker, Settings]:
    """`ranker` fitted, or a copy of the one before where only the scoring differs; and what it was fitted with."""
    fields = {field.name: getattr(ranker, field.name) for field in dataclasses.fields(ranker)}
    scoring = {name: fields.pop(name) for name in ranker.SCORING_SETTINGS}
    if fields != fitted_with:
        fit(ranker, split, seed, figure_of)
        return ranker, fields
    again = copy.copy(previous)
    for name, value in scoring.items():
        setattr(again, name, value)
    return again, fields
