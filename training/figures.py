"""From what every system made of the requests to a table of figures with intervals, ready to be written as JSON."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset

from .evaluation import HEADLINE_CUTOFF, TaskResult, headline, train_counts
from .list_metrics import POPULARITY_GROUPS, popularity_groups
from .metrics import Figure, Measured, difference, figures, ranking_values, ratio

LEVEL, NUM_RESAMPLES = 0.95, 1000
# Histories of a group have at least so many events, and fewer than the next group's.
LENGTH_GROUPS = (0, 6, 11, 21, 51, 101)
STRATA_METRIC = f"hr@{HEADLINE_CUTOFF}"


def task_figures(results: Mapping[str, TaskResult], train: Dataset, seed: int = 0) -> dict[str, dict[str, Any]]:
    """
    Figures of every task, each as `{"value", "low", "high"}`: a 95% bootstrap interval over people, who count once
    however many rows they have. What only all rows together have (coverage, ...) has no interval.

    Args:
        results: of [`evaluate_tasks`].
        train (`datasets.Dataset`): sequences that were trained on; items are popular there, or new.
        seed (`int`): of the bootstrap.

    Returns:
        By task: `rows`, `people`, `systems` (by system, by metric), `compared` (the model beside each other system,
        paired: `difference` and `ratio`, by metric), and for rankings `without_rank` (answers that are in the history
        already, or no item that is ranked) and `strata` (hit rates by `history_length` and `popularity`).
    """
    return {task: _task(result, train, seed) for task, result in results.items()}


def _task(result: TaskResult, train: Dataset, seed: int) -> dict[str, Any]:
    users = result.samples.users
    table = {"rows": len(users), "people": len(np.unique(users)), "systems": {}}
    for system, measured in result.measured.items():
        whole = {name: _point(value) for name, value in result.whole.get(system, {}).items()}
        table["systems"][system] = _figures(measured, users, seed) | whole
    table["compared"] = {
        f"model / {system}": _compare(result.measured["model"], measured, users, seed)
        for system, measured in result.measured.items()
        if system != "model"
    }
    if result.ranks:
        # Of semantic codes the model ranks the first ones alone; what is in the history, no system does.
        table["without_rank"] = int(np.isinf(np.min(list(result.ranks.values()), axis=0)).sum())
        table["strata"] = _strata(result, train, seed)
    return table


def _figures(measured: Mapping[str, Measured], users: np.ndarray, seed: int) -> dict[str, Figure]:
    return figures(measured, users, LEVEL, NUM_RESAMPLES, seed)


def _point(value: float) -> Figure:
    return {"value": value, "low": None, "high": None}


def _compare(
    model: Mapping[str, Measured], other: Mapping[str, Measured], users: np.ndarray, seed: int
) -> dict[str, dict[str, Figure]]:
    names = [name for name in headline(model) if name in other]
    kinds = {"difference": difference, "ratio": ratio}
    pairs = {(name, kind): combine(model[name], other[name]) for name in names for kind, combine in kinds.items()}
    found = _figures(pairs, users, seed)
    return {name: {kind: found[name, kind] for kind in kinds} for name in names}


def _strata(result: TaskResult, train: Dataset, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Hit rates of groups of rows, by what they are grouped by."""
    item_ids = result.samples.item_ids
    groups = dict(zip(item_ids, popularity_groups(train_counts(train, item_ids)), strict=True))
    by_item = np.array([groups[item_id] for item_id in result.samples.items])
    by_length = np.searchsorted(LENGTH_GROUPS, result.samples.lengths, side="right") - 1
    ends = [f"{low} to {high - 1}" for low, high in pairwise(LENGTH_GROUPS)]
    names = {
        "history_length": (by_length, [*ends, f"{LENGTH_GROUPS[-1]} and more"]),
        "popularity": (by_item, POPULARITY_GROUPS),
    }
    return {
        kind: [
            _stratum(result, np.flatnonzero(group == number), name, seed)
            for number, name in enumerate(group_names)
            if (group == number).any()
        ]
        for kind, (group, group_names) in names.items()
    }


def _stratum(result: TaskResult, rows: np.ndarray, name: str, seed: int) -> dict[str, Any]:
    users = result.samples.users[rows]
    systems = {
        system: Measured(ranking_values(ranks[rows], (HEADLINE_CUTOFF,))[STRATA_METRIC])
        for system, ranks in result.ranks.items()
    }
    return {"group": name, "rows": len(rows), STRATA_METRIC: _figures(systems, users, seed)}
