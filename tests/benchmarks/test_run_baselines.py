"""The command: what it writes, and what it leaves out."""

import json
import sys

import numpy as np
import pytest
import run_baselines
from baselines.methods import EXPLANATION, RANKING, RATING
from datasets import Dataset

from unimp.processing.splits import make_split
from unimp.processing.store import read_store


@pytest.fixture
def folder(tmp_path):
    """Thirty people go round eight items; ratings and explanations tell which item it is."""
    rows = [(f"u{user}", f"i{(user + step) % 8}", step) for user in range(30) for step in range(6)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True))
    ratings = [float(item[1:]) % 5 + 1 for item in columns["item_id"]]
    texts = [f"This is a very fine {item} indeed." for item in columns["item_id"]]
    Dataset.from_dict(columns | {"rating": ratings, "explanation": texts}).to_parquet(
        tmp_path / "interactions.parquet"
    )
    Dataset.from_dict({"item_id": [f"i{item}" for item in range(9)]}).to_parquet(tmp_path / "items.parquet")
    return tmp_path


def make_benchmark(folder, split="leave_one_out", **features):
    store = read_store(folder)
    return run_baselines.make_benchmark(make_split(store, split), store.items["item_id"][:], features, [0, 1], 1)


def test_what_the_command_writes(folder, monkeypatch, capsys):
    output = folder / "results.json"
    names = ["item_knn", "bpr", "bias", "nearest_review"]
    arguments = ["--dataset", str(folder), "--split", "leave_last_2", "--output", str(output), "--methods", *names]
    monkeypatch.setattr(sys, "argv", ["run_baselines.py", *arguments, "--seeds", "0", "1", "--trials", "2"])
    run_baselines.main()
    written = json.loads(output.read_text())
    assert written["split"] == "leave_last_2"
    assert (written["rows"], written["users"]) == (60, 30)
    assert list(written["methods"]) == names
    knn = written["methods"]["item_knn"]
    assert len(knn["trials"]) == len(RANKING["item_knn"].grid)
    assert len(written["methods"]["bpr"]["trials"]) == 2
    assert knn["settings"] in [trial["settings"] for trial in knn["trials"]]
    assert knn["seeds"] == [0]
    assert written["methods"]["bpr"]["seeds"] == [0, 1]
    with np.load(output.with_suffix(".npz")) as arrays:
        assert arrays["item_knn"].shape == (1, 60)
        assert arrays["bpr"].shape == (2, 60)
        assert arrays["user_id"][:3].tolist() == ["u0", "u0", "u1"]
        assert arrays["explanation:nearest_review"][0] == "This is a very fine i4 indeed."
        hits = (arrays["item_knn"][0] <= 10).reshape(30, 2).mean()
    figures = knn["metrics"]["hr@10"]
    assert figures["mean"] == pytest.approx(hits)
    assert figures["low"] <= figures["mean"] <= figures["high"]
    assert "bias: rmse" in capsys.readouterr().out


def test_rating_errors_are_those_of_people(folder):
    """Each person has as many rows: the root of the mean over them all, inside its interval."""
    benchmark = make_benchmark(folder, "leave_last_2")
    entry, arrays = run_baselines.run_rating("global_mean", benchmark)
    test = benchmark.split.test
    errors = arrays["rating:global_mean"][0] - test.ratings[test.last]
    rmse = entry["metrics"]["rmse"]
    assert rmse["mean"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert rmse["low"] < rmse["mean"] < rmse["high"]


def test_what_is_done_is_not_done_again(folder, monkeypatch):
    benchmark, output, about = make_benchmark(folder), folder / "results.json", {"rows": 30}
    first, arrays = run_baselines.run(benchmark, ["popularity"], about, output)
    done = []
    monkeypatch.setattr(
        run_baselines, "run_ranking", lambda name, benchmark: done.append(name) or ({"metrics": {}}, {})
    )
    results, again = run_baselines.run(benchmark, ["popularity", "item_knn"], about, output)
    assert done == ["item_knn"]
    assert results["popularity"] == first["popularity"]
    np.testing.assert_array_equal(again["popularity"], arrays["popularity"])
    assert list(json.loads(output.read_text())["methods"]) == ["popularity", "item_knn"]
    with pytest.raises(SystemExit, match="of another run"):
        run_baselines.run(benchmark, ["popularity"], {"rows": 31}, output)


def test_methods_that_lack_something_are_left_out(folder):
    assert run_baselines.applicable(make_benchmark(folder)) == [
        *(name for name, method in RANKING.items() if not method.kinds),
        *RATING,
        *EXPLANATION,
    ]
    benchmark = make_benchmark(folder, text=np.eye(9))
    assert "vbpr_text" in run_baselines.applicable(benchmark)
    assert "vbpr_both" not in run_baselines.applicable(benchmark)


def test_new_items_are_ranked_among_themselves_too(folder):
    benchmark = make_benchmark(folder, "cold_items", text=np.eye(9))
    entry, arrays = run_baselines.run_ranking("content_knn_text", benchmark)
    targets = benchmark.split.test.items[benchmark.split.test.last]
    new = benchmark.new_items[targets]
    assert new.any()
    assert (arrays["content_knn_text:new_items"][0, new] <= benchmark.new_items.sum()).all()
    assert (arrays["content_knn_text"] >= arrays["content_knn_text:new_items"])[:, new].all()
    assert set(entry["metrics_among_new_items"]) == set(entry["metrics"])


def test_features_are_put_in_the_catalogues_order(tmp_path):
    path = tmp_path / "features.npz"
    np.savez(path, item_id=np.array(["b", "a"]), text=np.array([[1.0], [2.0]]))
    features = run_baselines.read_features(str(path), ["a", "new", "b"])
    np.testing.assert_array_equal(features["text"], [[2], [0], [1]])
    np.savez(path, text=np.ones((2, 1)))
    with pytest.raises(ValueError, match="has no array item_id"):
        run_baselines.read_features(str(path), ["a"])


def test_every_method_runs(folder):
    """All of them on tiny data, with one settings each and whatever they need."""
    benchmark = make_benchmark(folder, text=np.eye(9), picture=np.eye(9)[::-1])
    results, arrays = run_baselines.run(benchmark, run_baselines.applicable(benchmark), {})
    assert set(results) == {*RANKING, *RATING, *EXPLANATION}
    for name in RANKING:
        assert np.isfinite(arrays[name]).all()
        assert (arrays[name] <= 9).all()
    for name in EXPLANATION:  # every text of an item is the same
        assert results[name]["metrics"]["bleu"] == pytest.approx(1)
