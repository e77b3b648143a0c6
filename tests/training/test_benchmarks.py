"""What the benchmarks say when something is wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"difference": 0.5}, "text logits differ by 0.5"),
        ({"difference": float("nan")}, "text logits differ by nan"),
        ({"losses": [2.0, 2.5]}, "the loss does not fall"),
        ({"losses": [2.0]}, "the loss does not fall"),
        ({"moved": {"new", "vision"}}, "1 frozen tensors moved, such as vision"),
    ],
)
def test_the_benchmark_of_backbones_tells_what_failed(changes, message):
    fine = {"difference": 1e-6, "losses": [2.0, 3.0, 1.0], "moved": {"new"}, "frozen": {"vision", "text"}}
    failures = load("backbones").failures
    assert failures(**fine) == []
    [failure] = failures(**fine | changes)
    assert message in failure


def test_systems_are_compared_over_the_people_that_have_the_figure():
    demo_store = load("demo_store")
    first, short = np.array([1.0, 0.0, 1.0, 1.0]), np.array([1.0, np.nan, 1.0, np.nan])
    values = {
        demo_store.FIRST: {"hr@10": first, "hr@10, short histories": short},
        "popularity": {"hr@10": np.array([1.0, 0.0, 0.0, 0.0]), "hr@10, short histories": short / 2},
    }
    systems = demo_store.compare(values)
    assert systems["popularity"]["hr@10"]["value"] == 0.25
    assert systems["popularity"]["hr@10"]["ratio"]["value"] == 3.0
    few = systems["popularity"]["hr@10, short histories"]
    assert (few["value"], few["people"], few["ratio"]["value"]) == (0.5, 2, 2.0)
    assert "ratio" not in systems[demo_store.FIRST]["hr@10"]
    assert "| 0.250 [0.000, 0.750] (x 3.00 [" in demo_store.markdown(systems)
