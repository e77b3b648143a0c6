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


def test_random_figures_are_those_of_each_person():
    figures = load("demo_store")._by_person(np.array([[1.0, 20.0], [30.0, 40.0], [2.0, 3.0]]))
    assert figures["hr@10"].tolist() == [0.5, 0.0, 1.0]
    assert load("demo_store")._by_person(np.array([1.0, 20.0]))["hr@10"].tolist() == [1.0, 0.0]
