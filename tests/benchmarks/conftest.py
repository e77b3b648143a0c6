"""Tiny events for the baselines, which are no installed package: they lie beside the scripts of `benchmarks/`."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from baselines.data import EncodedSplit, Events, TrainingData


@pytest.fixture
def make_events():
    """From lists of item numbers, a row each, to [`Events`]; users are numbered by row unless given."""

    def make(rows, users=None, ratings=None, texts=None):
        items = np.array([item for row in rows for item in row], dtype=np.int64)
        offsets = np.append(0, np.cumsum([len(row) for row in rows])).astype(np.int64)
        return Events(
            np.arange(len(rows)) if users is None else np.array(users),
            items,
            offsets,
            np.full(len(items), np.nan) if ratings is None else np.array(ratings, dtype=float),
            np.array([None] * len(items) if texts is None else texts, dtype=object),
        )

    return make


@pytest.fixture
def make_data(make_events):
    """The same as training data."""

    def make(rows, num_items, features=None, **columns):
        return TrainingData(make_events(rows, **columns), len(rows), num_items, features or {})

    return make


@pytest.fixture
def cycle(make_events):
    """Sixty people who go round nine items in order, from any of them: what comes next is certain."""
    rows = [[(start + step) % 9 for step in range(5 + start % 4)] for start in range(60)]
    train = TrainingData(make_events([row[:-2] for row in rows]), 60, 9)
    return EncodedSplit(train, make_events([row[:-1] for row in rows]), make_events(rows))
