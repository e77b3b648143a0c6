"""A whole run from a store to a saved, evaluated model, where items or kinds of events are held out of training."""

import json
import os

import pytest
import torch
from datasets import Dataset

from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import Split, make_split
from unimp.processing.store import make_store
from unimp.training import run as runs
from unimp.training.recipe import ModelArguments, build, load
from unimp.training.run import run
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

from .conftest import TINY, TINY_RUN


def config_of(folder, **fields) -> UniMPTrainingConfig:
    return UniMPTrainingConfig(**(TINY_RUN | {"task_rates": {"recommend": 1.0}, "output_dir": str(folder)} | fields))


@pytest.fixture(scope="module")
def cold_split(store):
    return make_split(store, "cold_items")


@pytest.fixture(scope="module")
def cold_run(store, cold_split, tmp_path_factory):
    """A run on new items: its result, its folder, and what the model knew at the end of every step."""
    folder, seen = tmp_path_factory.mktemp("cold"), []
    step = UniMPTrainer.training_step

    def watched(self, model, inputs, *args, **kwargs):
        seen.append((self.model.config.num_items, set(self.processing_class.catalog.item_ids)))
        return step(self, model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UniMPTrainer, "training_step", watched)
        result = run(store, cold_split, ModelArguments(**TINY), config_of(folder, max_steps=12))
    return result, folder, seen


def test_items_that_are_held_out_are_not_there_while_a_model_trains(store, cold_split, cold_run):
    _, _, seen = cold_run
    new = set(cold_split.new_items)
    assert new
    old = set(store.items["item_id"]) - new
    assert len(seen) == 12
    for num_items, item_ids in seen:
        assert num_items == len(old)
        assert item_ids == old
    for item_id in new:
        assert all(item_id not in events for events in cold_split.train["item_id"])


def test_items_that_were_held_out_are_known_by_their_content_afterwards(store, cold_split, cold_run):
    result, folder, _ = cold_run
    model, processor = result.model, result.processor
    assert set(processor.catalog.item_ids) == set(store.items["item_id"])
    assert model.config.num_items == len(store.items)
    new = [processor.catalog.position(item_id) for item_id in cold_split.new_items]
    old = [code for code in range(len(processor.catalog)) if code not in new]
    assert min(new) > max(old)  # the codes of the others stay as they were
    rows = model.model.item_rows
    assert not rows.learned[new].any()
    assert rows.learned[old].any(-1).float().mean() > 0.9
    assert not rows.bias[new].any()
    content = model.compute_item_rows()[1]
    assert content[new].any(-1).all()
    assert len(content[new].unique(dim=0)) == len(new)
    # And so it is saved.
    saved, its_processor = load(str(folder))
    assert its_processor.catalog.item_ids == processor.catalog.item_ids
    torch.testing.assert_close(saved.compute_item_rows()[1], content)


def test_items_that_were_held_out_can_be_recommended(store, cold_split, cold_run):
    result, folder, _ = cold_run
    assert set(result.metrics) == {"recommend"}
    figures = result.metrics["recommend"]["model"]
    assert 0 <= figures["hr@10"] <= 1
    report = json.loads((folder / "metrics.json").read_text())
    assert report["test_people"] == len(set(cold_split.test["user_id"]))
    assert report["split"].startswith("cold_items")
    targets = {events[-1] for events in cold_split.test["item_id"]}
    assert targets <= set(cold_split.new_items)


def test_new_items_are_recommended_to_those_who_choose_the_like(tmp_path):
    """Some people choose red things and the others blue ones; of each there is one that nobody is trained on."""
    ids = {colour: [f"{colour}-{number}" for number in range(6)] for colour in ("red", "blue")}
    items = [{"item_id": item_id, "title": f"{colour} thing"} for colour, of_it in ids.items() for item_id in of_it]
    rows = [
        {"user_id": f"{colour} {n}", "item_id": [of_it[(n + step) % 5] for step in (0, 1, 2, 3)]}
        for n in range(12)
        for colour, of_it in ids.items()
    ]
    rows = [row | {"timestamp": [10, 20, 30, 40]} for row in rows]
    asked = [
        {"user_id": colour, "item_id": [*of_it[:2], of_it[5]], "timestamp": [10, 20, 30]}
        for colour, of_it in ids.items()
    ]
    events = [
        {"user_id": row["user_id"], "item_id": item_id, "timestamp": time}
        for row in rows + asked
        for item_id, time in zip(row["item_id"], row["timestamp"], strict=True)
    ]
    store = make_store(Dataset.from_list(items), Dataset.from_list(events))
    train, test = Dataset.from_list(rows), Dataset.from_list(asked)
    split = Split("cold_items", train, test, test, new_items=("blue-5", "red-5"))
    arguments = ModelArguments(**TINY | {"item_dropout": 0.5, "cross_attention_every": 2})
    result = run(store, split, arguments, config_of(tmp_path, max_steps=60, num_passes=30, learning_rate=5e-3))
    model, processor = result.model.eval(), result.processor
    scores = model.score_items(**processor([{"history": ids[colour][:2]} for colour in ("red", "blue")]))
    codes = {colour: [processor.catalog.position(item_id) for item_id in of_it] for colour, of_it in ids.items()}
    for row, colour, other in ((scores[0], "red", "blue"), (scores[1], "blue", "red")):
        assert row[codes[colour][5]] > row[codes[other]].max()  # before everything of the other colour


def test_the_figures_of_a_run_are_those_of_the_saved_folder(store, cold_split, cold_run):
    from unimp.training.evaluation import evaluate

    result, folder, _ = cold_run
    model, processor = load(str(folder))
    again = evaluate(model.eval(), processor, cold_split.test, cold_split.train, ["recommend"])
    assert again["recommend"]["model"] == pytest.approx(result.metrics["recommend"]["model"], abs=1e-6)


def test_a_new_small_decoder_learns_faster_than_one_that_knows_something(store, split, tmp_path):
    rates = {"new": None, "continued": None, "given": 5e-4}
    configs = (config_of(tmp_path / name, max_steps=1, learning_rate=rate) for name, rate in rates.items())
    new, continued, given = configs
    run(store, split, ModelArguments(**TINY), new)
    run(store, split, ModelArguments(model=str(tmp_path / "new")), continued)
    run(store, split, ModelArguments(**TINY), given)
    assert (new.learning_rate, continued.learning_rate, given.learning_rate) == (2e-3, 2e-4, 5e-4)


def test_a_trained_model_is_shown_as_much_as_in_training(store, split, tmp_path):
    run(store, split, ModelArguments(**TINY), config_of(tmp_path, max_steps=1, history_window=2))
    processor = load(str(tmp_path))[1]
    ids = processor.catalog.item_ids
    shown, whole = (processor({"history": history})["input_ids"] for history in (ids[3:5], ids[:5]))
    assert torch.equal(whole, shown)


def test_without_new_items_the_catalogue_stays_as_it_is(store, split, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("nothing is to be added")

    monkeypatch.setattr(runs, "continue_with", never)
    result = run(store, split, ModelArguments(**TINY), config_of(tmp_path, max_steps=2))
    assert result.processor.catalog.item_ids == store.items["item_id"][:]


def test_a_run_on_new_items_is_resumed(store, cold_split, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = run(store, cold_split, ModelArguments(**TINY), config_of(tmp_path / "out", **fields))
    for name in ("model.safetensors", "catalog.parquet"):
        (tmp_path / "out" / name).unlink()
    for path in (tmp_path / "out" / "checkpoint-4").iterdir():
        path.unlink()
    (tmp_path / "out" / "checkpoint-4").rmdir()
    _, processor = load(str(tmp_path / "out" / "checkpoint-2"))
    assert not set(processor.catalog.item_ids) & set(cold_split.new_items)
    again = run(store, cold_split, ModelArguments(**TINY), config_of(tmp_path / "out", **fields), resume=True)
    assert again.processor.catalog.item_ids == whole.processor.catalog.item_ids
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_what_was_trained_on_other_items_is_not_resumed(store, split, cold_split, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    run(store, cold_split, ModelArguments(**TINY), config_of(tmp_path, **fields))
    with pytest.raises(ValueError, match="`resume`: the checkpoint was trained on other items"):
        run(store, split, ModelArguments(**TINY), config_of(tmp_path, **fields), resume=True)


def test_what_is_resumed_is_what_was_written_last_and_whole(tmp_path):
    for time, name in enumerate(("checkpoint-23", "checkpoint-7", "checkpoint-8")):
        state = tmp_path / name / ("trainer_state.json" if time < 2 else "optimizer.pt")
        state.parent.mkdir()
        state.touch()
        os.utime(state, (time, time))
    assert runs._last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-7")
    with pytest.raises(ValueError, match="there is no checkpoint in `output_dir`"):
        runs._last_checkpoint(str(tmp_path / "checkpoint-7"))


@pytest.mark.parametrize("column", [{"rating": 10.0}, {"behavior": "gift"}])
def test_what_only_new_items_have_is_no_error_after_training(tmp_path, column):
    """A rating or a kind of event that occurs with held-out items alone: nothing that is trained on shows it."""
    items, interactions = build_demo_store(num_items=40, num_users=30)
    items = [dict(item) for item in items]
    domain = items[0]["category"]
    inside = {item["item_id"] for item in items if item["category"] == domain}
    events = [dict(event) for event in interactions]
    for event in events:
        if event["item_id"] in inside:
            event |= column
    store = make_store(Dataset.from_list(items), Dataset.from_list(events))
    split = make_split(store, f"new_domain:category={domain}")
    result = run(store, split, ModelArguments(**TINY), config_of(tmp_path, max_steps=2))
    assert len(result.processor.catalog) == 40


def test_a_finished_model_goes_on_with_new_items_held_out(store, cold_split, tmp_path):
    """`model` is continued; it has never seen the items, and gets them after training only."""
    old = [dict(item) for item in store.items if item["item_id"] not in cold_split.new_items]
    known = {item["item_id"] for item in old}
    events = [dict(event) for event in store.interactions if event["item_id"] in known]
    for part in build(make_store(Dataset.from_list(old), Dataset.from_list(events)), ModelArguments(**TINY)):
        part.save_pretrained(tmp_path / "model")
    arguments = ModelArguments(model=str(tmp_path / "model"))
    result = run(store, cold_split, arguments, config_of(tmp_path / "out", max_steps=2))
    new = [result.processor.catalog.position(item_id) for item_id in cold_split.new_items]
    assert len(result.processor.catalog) == len(store.items)
    assert not result.model.model.item_rows.learned[new].any()
