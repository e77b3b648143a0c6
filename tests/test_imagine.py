"""`unimp quickstart --imagine` and `unimp imagine`, on a store shrunken to run in seconds."""

from dataclasses import replace
from functools import partial

import pytest
from PIL import Image

from unimp import imagine, quickstart
from unimp.cli import INTERRUPTED, main
from unimp.processing.demo_store import build_demo_store
from unimp.training.imagine import CHECKPOINT, ImagineTrainer
from unimp.training.recipe import ModelArguments


def tiny_model() -> ModelArguments:
    return ModelArguments(hidden_size=32, num_layers=1, num_heads=2, vocab_size=400, image_size=32, full_chunks=1)


@pytest.fixture
def small_quickstart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "build_demo_store", partial(build_demo_store, num_items=40, num_users=20))
    monkeypatch.setattr(quickstart, "model_arguments", tiny_model)
    recommender, denoiser = quickstart.training_config, imagine.training_config
    short = {"max_steps": 2, "task_rates": {"recommend": 1.0}}
    monkeypatch.setattr(quickstart, "training_config", lambda *args: replace(recommender(*args), **short))
    quick = {"max_steps": 2, "batch_size": 4, "disable_tqdm": True}
    monkeypatch.setattr(imagine, "training_config", lambda *args: replace(denoiser(*args), **quick))
    monkeypatch.setattr(imagine, "sheet_rows", partial(imagine.sheet_rows, num_inference_steps=1, use_answer=False))


def test_learning_to_draw_is_interrupted_and_goes_on_without_the_recommender(small_quickstart, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr(ImagineTrainer, "train", lambda self, resume: self.training_step() is self._save())
        assert main(["quickstart", "--output_dir", "out", "--imagine"]) == INTERRUPTED
    assert (tmp_path / "out" / "imagine" / CHECKPOINT).is_file()
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    monkeypatch.setattr(quickstart, "run", lambda *args, **kwargs: pytest.fail("the recommender is trained again"))
    assert main(["quickstart", "--output_dir", "out", "--imagine", "--resume"]) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / "out" / "imagine" / CHECKPOINT).exists()
    sheet = Image.open(tmp_path / "out" / "imagine.png")
    assert len(sheet.convert("RGB").getcolors(sheet.width * sheet.height)) > 1000  # there are pictures on it
    assert main(["imagine", "--model", "out", "--history", "item-0001", "--query", "hat", "--output", "hat.png"]) == 0
    assert Image.open(tmp_path / "hat.png").size == (48, 48)
    assert main(["imagine", "--model", "out", "--target", "item-0002", "--output", "shown.png"]) == 0
    assert Image.open(tmp_path / "shown.png").size == (48, 48)
    assert main(["imagine", "--model", "out", "--target", "itm-0002", "--output", "none.png"]) == 1


def test_the_sheet_is_of_what_people_asked_for_and_of_the_same_for_several():
    rows = [
        {"user_id": "a", "item_id": ["x"], "timestamp": [1], "query": ["no history"]},
        {"user_id": "b", "item_id": ["x", "y"], "timestamp": [1, 2], "query": ["first", "second"]},
        {"user_id": "c", "item_id": ["y", "x"], "timestamp": [1, 2], "query": ["third", None]},
        {"user_id": "d", "item_id": ["z", "x"], "timestamp": [1, 2], "query": ["fourth", "fifth"]},
    ]
    requests = imagine.sheet_requests(rows)
    assert [request["query"] for request in requests] == ["second", None, imagine.SHEET_REQUESTS[1]]
    assert [[event["item_id"] for event in request["history"]] for request in requests] == [["x"], ["y"], ["z"]]


def test_an_alpha_that_is_none_is_refused(small_quickstart, capsys):
    assert main(["imagine", "--model", "nowhere", "--alpha", "far"]) == 1
    assert "--alpha" in capsys.readouterr().err
