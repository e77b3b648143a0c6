"""Tables of figures, from results made by hand."""

import json

import numpy as np
import pytest
from datasets import Dataset

from unimp.training.evaluation import TaskResult
from unimp.training.figures import task_figures
from unimp.training.held_out import held_out_samples
from unimp.training.metrics import Measured, ranking_values

INF = float("inf")


def figures_of(**ranks):
    """Ann has two rows, of 4 and 5 events before the answer, Bob one of 7; item a is the only one trained on."""
    rows = {"user_id": ["ann", "ann", "bob"], "item_id": [[*"bcbcx"], [*"bcbcxa"], [*"bcdbcdba"]]}
    rows["timestamp"] = [list(range(len(items))) for items in rows["item_id"]]
    samples = held_out_samples(Dataset.from_dict(rows), "recommend", [*"abcdx"])
    ranks = {system: np.array(values) for system, values in ranks.items()}
    measured = {
        system: {name: Measured(own) for name, own in ranking_values(values).items()}
        for system, values in ranks.items()
    }
    result = TaskResult(samples, measured, {"model": {"coverage@10": 0.25}}, ranks)
    train = Dataset.from_dict({"item_id": [["a", "a"]]})
    found = task_figures({"recommend": result}, train)
    return json.loads(json.dumps(found, allow_nan=False))["recommend"]


@pytest.fixture
def figures():
    return figures_of(model=[1.0, 12.0, INF], popularity=[12.0, 1.0, 1.0])


def test_what_no_system_ranks_was_in_the_history():
    # Of semantic codes the model ranks the first ones alone: the second row is none of those.
    assert figures_of(model=[1.0, INF, INF], popularity=[3.0, 9.0, INF])["without_rank"] == 1


def test_people_count_once(figures):
    assert (figures["rows"], figures["people"], figures["without_rank"]) == (3, 2, 0)
    assert figures["systems"]["model"]["hr@10"] == {"value": 0.25, "low": 0, "high": 0.5}
    assert figures["systems"]["popularity"]["hr@10"] == {"value": 0.75, "low": 0.5, "high": 1}


def test_what_only_the_whole_has_is_without_interval(figures):
    assert figures["systems"]["model"]["coverage@10"] == {"value": 0.25, "low": None, "high": None}
    assert "coverage@10" not in figures["systems"]["popularity"]


def test_systems_are_compared_in_pairs(figures):
    # Ann: 1/2 and 1/2, Bob: 0 and 1. Twice Ann or twice Bob is drawn now and then.
    compared = figures["compared"]["model / popularity"]["hr@10"]
    assert compared["difference"] == {"value": -0.5, "low": -1, "high": 0}
    assert compared["ratio"] == pytest.approx({"value": 1 / 3, "low": 0, "high": 1})


def test_groups_of_rows(figures):
    short, long = figures["strata"]["history_length"]
    assert (short["group"], short["rows"], short["hr@10"]["model"]["value"]) == ("0 to 5", 2, 0.5)
    assert (long["group"], long["rows"], long["hr@10"]["popularity"]["value"]) == ("6 to 10", 1, 1)
    head, never = figures["strata"]["popularity"]
    assert (head["group"], head["rows"], head["hr@10"]["model"]["value"]) == ("head", 2, 0)
    assert (never["group"], never["rows"], never["hr@10"]["model"]["value"]) == ("never", 1, 1)
