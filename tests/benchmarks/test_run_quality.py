"""The tables: what is trained and measured, how systems are compared, and that every entry can be run."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import run_quality
import yaml
from baselines.methods import EXPLANATION, RANKING, RATING
from datasets import Dataset

from unimp.cli import DataArguments, parse
from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import make_split
from unimp.processing.store import make_store, read_store, write_store
from unimp.training.recipe import ModelArguments, build
from unimp.training.trainer import UniMPTrainingConfig

TABLES = yaml.safe_load((run_quality.HERE / "quality.yaml").read_text(encoding="utf-8"))


def make_table(**entry):
    return run_quality.Table(**{"split": "leave_one_out", "models": {"unimp": {}}, "settings": {}} | entry)


@pytest.fixture
def dataset(tmp_path):
    items = Dataset.from_dict({"item_id": ["a", "b"], "title": ["A", "B"], "genres": ["x", "y"]})
    events = {"user_id": ["u"] * 3, "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3], "rating": [1.0, 2.0, 3.0]}
    write_store(items, Dataset.from_dict(events), tmp_path / "store")
    return str(tmp_path / "store")


@pytest.fixture
def options(tmp_path, dataset):
    return argparse.Namespace(dataset=dataset, work_dir=tmp_path / "work", item_encoder="encoder", vision=None)


@pytest.fixture
def commands(monkeypatch):
    """The `unimp` commands that would have been run."""
    ran = []
    monkeypatch.setattr(run_quality, "_unimp", lambda *arguments: ran.append(arguments))
    return ran


@pytest.mark.parametrize("name", TABLES)
def test_every_entry_can_be_run(name, tmp_path):
    table = run_quality.Table(**TABLES[name])
    assert set(table.baselines) <= {*RANKING, *RATING, *EXPLANATION}
    items = Dataset.from_dict({"item_id": list("abcdefghij") * 6, "genres": ["Horror"] * 60})
    items = items.select(range(10))
    rows = [(f"u{user}", "abcdefghij"[(user + step) % 10], step) for user in range(20) for step in range(6)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True))
    if not table.split.startswith("new_domain"):  # it needs items of two kinds
        make_split(make_store(items, Dataset.from_dict(columns)), table.split)
    for changes in table.models.values():
        settings = {"item_encoder": "encoder"} | dict(table.settings) | changes  # as the command gives it
        if settings.pop("of", None):  # trained by another entry
            continue
        for name in ("without", *run_quality.TRAINED_WITHOUT):
            settings.pop(name, None)
        config = tmp_path / "train.yaml"
        config.write_text(yaml.safe_dump(settings | {"dataset": "store", "output_dir": str(tmp_path)}))
        parse(["--config", str(config)], DataArguments, ModelArguments, UniMPTrainingConfig)


def test_a_model_is_trained_and_measured_once(options, commands, tmp_path):
    table = make_table(settings={"num_passes": 3}, models={"unimp": {"history_window": 7}})
    folder = tmp_path / "work" / "unimp" / "seed-4"
    run_quality.train_and_evaluate(table, "unimp", 4, options, folder)
    (train, _, config), evaluate = commands
    assert train == "train"
    expected = {"num_passes": 3, "history_window": 7, "item_encoder": "encoder", "seed": 4, "split": "leave_one_out"}
    assert yaml.safe_load(Path(config).read_text()) == expected | {
        "dataset": options.dataset,
        "output_dir": str(folder),
    }
    assert evaluate[:3] == ("evaluate", "--model", str(folder))
    assert "--history_window" not in evaluate  # the model knows it
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "results.json").write_text("{}")
    run_quality.train_and_evaluate(table, "unimp", 4, options, folder)
    assert len(commands) == 2
    options.item_encoder = "another"
    with pytest.raises(SystemExit, match="was made with other settings"):
        run_quality.train_and_evaluate(table, "unimp", 4, options, folder)


def test_without_context_reconstruction_only_answers_are_trained(options, monkeypatch, tmp_path):
    """Afterwards everything is as it was."""
    seen = []

    def unimp(*arguments):
        made = run_quality.trainer.MixtureSettings(50, 0.2, dense=True)
        seen.append((arguments[0], run_quality.TASKS["recommend"].reconstructs, made.dense, made.history_window))

    monkeypatch.setattr(run_quality, "_unimp", unimp)
    table = make_table(models={"alone": {"reconstructs": False}, "unimp": {}})
    for name in table.models:
        run_quality.train_and_evaluate(table, name, 0, options, tmp_path / name)
    assert seen == [
        ("train", False, False, 50),
        ("evaluate", True, True, 50),
        ("train", True, True, 50),
        ("evaluate", True, True, 50),
    ]


def test_the_model_of_another_entry_is_measured_only(options, commands, tmp_path):
    changes = {"history_window": 0, "feature_similarity": 3.0, "feature_whitening": 0.5, "new_item_bias": 1.5}
    table = make_table(models={"hidden": {"of": "search/unimp", **changes}})
    run_quality.train_and_evaluate(table, "hidden", 1, options, tmp_path / "here")
    ((name, _, model, *rest),) = commands
    assert (name, model) == ("evaluate", str(options.work_dir / "search" / "unimp" / "seed-1"))
    assert all(rest[rest.index(f"--{name}") + 1] == str(value) for name, value in changes.items())
    assert rest[rest.index("--output_dir") + 1] == str(tmp_path / "here" / "evaluation")


def test_a_data_set_without_some_columns(options):
    folder = run_quality._stripped(options.dataset, ["genres", "rating", "image"], options.work_dir)
    store = read_store(folder)
    assert store.items.column_names == ["item_id", "title"]
    assert store.interactions.column_names == ["user_id", "item_id", "timestamp"]
    assert run_quality._stripped(options.dataset, [], options.work_dir) == options.dataset


def test_of_the_times_the_order_is_left(options):
    store = read_store(run_quality._stripped(options.dataset, ["timestamp"], options.work_dir))
    assert store.interactions["timestamp"][:] == [0, 1, 2]
    assert store.interactions["item_id"][:] == ["a", "b", "a"]
    assert store.interactions["user_id"][:] == ["u"] * 3


def test_comparison_by_hand():
    """Two seeds; the first person has two rows, which count as one."""
    table = make_table(models={"ours": {}, "theirs": {}})
    users = np.array(["u", "u", "v"])
    ours = np.array([[1, 11, 1], [1, 1, 1]])  # HR@10: u (1 + 0 + 1 + 1) / 4 = .75, v 1
    theirs = np.array([[1, 11, 99], [1, 11, 1]])  # u .5, v .5
    systems = run_quality.compare(table, {"ours": ours, "theirs": theirs}, users)
    assert systems["ours"]["hr@10"]["value"] == pytest.approx(0.875)
    assert systems["theirs"]["hr@10"]["value"] == pytest.approx(0.5)
    assert systems["theirs"]["ratio"]["hr@10"]["value"] == pytest.approx(1.75)
    assert systems["theirs"]["ratio"]["hr@10"]["low"] == pytest.approx(1.5)
    assert systems["theirs"]["ratio"]["hr@10"]["high"] == pytest.approx(2)
    assert "ratio" not in systems["ours"]
    lines = run_quality.markdown(systems, "ours").splitlines()
    assert lines[2].startswith("| ours | ")
    assert lines[3].endswith("| 1.75 [1.50, 2.00] |")


def write_rows(folder, name, seed, task, rows, users):
    (folder / name / f"seed-{seed}" / "evaluation").mkdir(parents=True)
    arrays = {f"{task}/model": np.array(rows), f"{task}/user_id": np.array(users)}
    np.savez(folder / name / f"seed-{seed}" / "evaluation" / "ranks.npz", **arrays)


def test_selections_by_hand(tmp_path):
    """The mean over seeds, then over the rows of a person, then over people."""
    table = make_table(models={"theirs": {}, "ours": {}}, task="select", seeds=[0, 1])
    users = ["u", "v", "u"]
    for seed, f1 in ((0, 1.0), (1, 0.6)):
        write_rows(tmp_path, "ours", seed, "select", [f1, 0.4, f1], users)
        write_rows(tmp_path, "theirs", seed, "select", [0.5, 0.2, 0.3], users)
    rows, kept = run_quality.read_rows(table, tmp_path)
    assert kept.tolist() == users
    systems = run_quality.compare(table, rows, kept)
    assert systems["ours"]["f1"]["value"] == pytest.approx(0.6)
    assert systems["theirs"]["f1"]["value"] == pytest.approx(0.3)
    assert systems["ours"]["ratio"]["f1"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    lines = run_quality.markdown(systems, "theirs").splitlines()
    assert lines[0] == "| | F1 | theirs / this, F1 |"
    assert lines[2] == "| ours | 0.600 [0.400, 0.800] | 0.50 [0.50, 0.50] |"
    assert lines[3] == "| theirs | 0.300 [0.200, 0.400] |  |"


def test_codes_may_know_nothing_of_the_pictures(options, monkeypatch, tmp_path):
    """While a model is trained so, and not after it."""
    store, known = make_store(*build_demo_store(num_items=40, num_users=4)), []
    arguments = ModelArguments(hidden_size=16, num_layers=1, num_heads=2, vocab_size=400, image_size=32)

    def unimp(command, *_):
        model, _ = build(store, arguments)
        known.append((command, bool(model.model.item_content.image_embeddings.any())))

    monkeypatch.setattr(run_quality, "_unimp", unimp)
    table = make_table(models={"unimp": {"pictures_in_codes": False}})
    run_quality.train_and_evaluate(table, "unimp", 0, options, tmp_path / "unimp")
    assert known == [("train", False), ("evaluate", True)]
    assert (tmp_path / "unimp" / "train.yaml").read_text().endswith("# no pictures in codes\n")


def test_rows_of_another_split_are_refused(tmp_path):
    table = make_table(baselines=["ease"], seeds=[0])
    write_rows(tmp_path, "unimp", 0, "recommend", [1.0, 2.0], ["u", "v"])
    np.savez(tmp_path / "baselines.npz", ease=np.ones((1, 2)), user_id=np.array(["v", "u"]))
    with pytest.raises(SystemExit, match="are not those of the models"):
        run_quality.read_rows(table, tmp_path)
    np.savez(tmp_path / "baselines.npz", ease=np.ones((1, 2)), user_id=np.array(["u", "v"]))
    rows, users = run_quality.read_rows(table, tmp_path)
    assert (list(rows), users.tolist()) == (["unimp", "ease"], ["u", "v"])


def test_rating_errors_are_the_mean_over_seeds(tmp_path):
    table = make_table(task="rate", seeds=[0, 1], baselines=["svd"])
    for seed, rmse in ((0, 1.0), (1, 0.8)):
        folder = tmp_path / "unimp" / f"seed-{seed}" / "evaluation"
        folder.mkdir(parents=True)
        figures = {"rmse": {"value": rmse, "low": 0.5, "high": 1.5}, "mae": {"value": 0.7, "low": 0.5, "high": 1.0}}
        text = json.dumps({"tasks": {"rate": {"systems": {"model": figures}}}})
        (folder / "results.json").write_text(text)
    figure = {"mean": 0.95, "low": 0.9, "high": 1.0}
    text = json.dumps({"methods": {"svd": {"metrics": {"rmse": figure, "mae": figure}}}})
    (tmp_path / "baselines.json").write_text(text)
    systems = run_quality.rating_errors(table, tmp_path)
    assert systems["unimp"]["rmse"]["value"] == pytest.approx(0.9)
    assert "| svd | 0.950 [0.900, 1.000] | 0.950 [0.900, 1.000] |" in run_quality.markdown(systems, "unimp")
