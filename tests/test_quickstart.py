"""`unimp quickstart`, on a store shrunken to run in seconds."""

import json
from functools import partial

import torch
from transformers import TrainerCallback, pipeline

from unimp import quickstart
from unimp.processing.demo_store import build_demo_store
from unimp.training.recipe import ModelArguments


def tiny_model() -> ModelArguments:
    return ModelArguments(hidden_size=32, num_layers=1, num_heads=2, vocab_size=400, image_size=32, full_chunks=1)


class Steps(TrainerCallback):
    done = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.done = state.global_step


def test_quickstart(tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "build_demo_store", partial(build_demo_store, num_items=40, num_users=20))
    monkeypatch.setattr(quickstart, "model_arguments", tiny_model)
    config = quickstart.training_config
    monkeypatch.setattr(quickstart, "training_config", lambda *args: _short(config(*args)))
    steps = Steps()
    assert quickstart.quickstart(tmp_path / "out", callbacks=[steps]) == 0
    assert steps.done == 3
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    for text in ("Trained", "popularity", "History, oldest first", 'pipeline("unimp-recommend"', "top_k=5"):
        assert text in printed
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "catalog.parquet", "metrics.json", "store.png", "README.md"} <= left
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert set(metrics) == {"recommend", "search", "rate", "explain", "select"}
    recommend = pipeline("unimp-recommend", model="out", trust_remote_code=True)
    assert len(recommend({"history": ["item-0001"]}, top_k=5)) == 5


def _short(config):
    config.max_steps = 3
    return config
