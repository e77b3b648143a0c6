"""Pictures while a model trains: each is encoded once, where anybody looks."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from unimp.evaluate import EvaluateArguments, evaluate_model
from unimp.modeling_unimp import UniMPModel
from unimp.processing.catalog_unimp import Catalog
from unimp.processing.picture_store_unimp import PICTURE_FILES, PictureStore
from unimp.processing.pipelines_unimp import UniMPRecommendPipeline
from unimp.processing.splits import make_split
from unimp.training.recipe import ModelArguments, load
from unimp.training.run import run
from unimp.training.trainer import UniMPTrainingConfig

from .conftest import TINY, TINY_RUN, WAYS

FEATURES, LATENTS = PICTURE_FILES["features"], PICTURE_FILES["latents"]


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures each call of a vision encoder saw."""
    numbers, encode = [], UniMPModel.get_image_features

    def count(self, pixel_values):
        numbers.append(len(pixel_values))
        return encode(self, pixel_values)

    monkeypatch.setattr(UniMPModel, "get_image_features", count)
    return numbers


def config_of(folder, **fields):
    return UniMPTrainingConfig(**(TINY_RUN | {"task_rates": {"recommend": 1.0}, "output_dir": str(folder)} | fields))


def num_pictures(store):
    catalog = Catalog(store.items.with_format("arrow")[:])
    return len({catalog.image_key(code) for code in range(len(catalog)) if catalog.has_image(code)})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("split", ["leave_one_out", "cold_items"])
def test_a_run_encodes_each_picture_once(store, tmp_path, encoded, split, way):
    """For the content of the codes, for training, for items that join afterwards, and for the evaluation."""
    arguments = ModelArguments(**TINY | WAYS[way])
    result = run(store, make_split(store, split), arguments, config_of(tmp_path, max_steps=2))
    assert sum(encoded) == num_pictures(store) > 0
    store_of_latents = result.processor.open_pictures(result.model.eval())
    assert len(store_of_latents) == num_pictures(store)
    # The folder's own pipelines read the same file.
    model, processor = load(str(tmp_path))
    pipe = UniMPRecommendPipeline(model=model, processor=processor)
    assert pipe.pictures.path.samefile(tmp_path / LATENTS)
    pipe({"history": processor.catalog.item_ids[:3]})
    assert sum(encoded) == num_pictures(store)


def test_a_run_that_goes_on_reads_what_is_there(store, tmp_path, encoded):
    split = make_split(store, "leave_one_out")
    fields = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    run(store, split, ModelArguments(**TINY), config_of(tmp_path, **fields))
    seen, before = sum(encoded), PictureStore.open(tmp_path / LATENTS)
    again = run(store, split, ModelArguments(**TINY), config_of(tmp_path, **fields | {"max_steps": 4}), resume=True)
    assert sum(encoded) == seen
    latents = again.processor.open_pictures(again.model)
    assert set(latents) == set(before)
    assert not torch.equal(latents[list(before)], before[list(before)])  # of the resampler as it is now


def test_a_run_replaces_what_an_earlier_model_left(store, tmp_path, encoded):
    split = make_split(store, "leave_one_out")
    run(store, split, ModelArguments(**TINY), config_of(tmp_path, max_steps=1))
    seen = sum(encoded)
    run(store, split, ModelArguments(**TINY), config_of(tmp_path, max_steps=1, seed=1))  # other random weights
    assert sum(encoded) == 2 * seen
    assert load(str(tmp_path))[1].picture_file is not None
    run(store, split, ModelArguments(**TINY), config_of(tmp_path, max_steps=1, seed=2, cache_pictures=False))
    assert load(str(tmp_path))[1].picture_file is None  # no latents of another model are left


def test_no_features_are_kept_where_nobody_looks(store, tmp_path, encoded):
    """Codes alone are shown: pictures are read once, as content of the codes."""
    split, arguments = make_split(store, "leave_one_out"), ModelArguments(**TINY | {"full_chunks": 0})
    run(store, split, arguments, config_of(tmp_path, max_steps=1))
    assert sum(encoded) == num_pictures(store)
    assert not (tmp_path / FEATURES).exists()
    assert not (tmp_path / LATENTS).exists()


def test_no_features_are_kept_for_a_model_that_never_looks(store, tmp_path, encoded):
    split, arguments = make_split(store, "leave_one_out"), ModelArguments(**TINY | {"cross_attention_every": 0})
    run(store, split, arguments, config_of(tmp_path, max_steps=1))
    assert sum(encoded) == sum(row["image"] is not None for row in store.items)
    assert not (tmp_path / FEATURES).exists()


@pytest.mark.parametrize("way", WAYS)
def test_training_from_the_file_is_training_from_pictures(make_trainer, build_model, encoded, tmp_path, way):
    losses = []
    for fields in ({}, {"cache_pictures": False}):
        trainer = make_trainer(build_model(**WAYS[way]), **fields, output_dir=str(tmp_path / f"out {len(losses)}"))
        before = sum(encoded)
        trainer.train()
        assert (sum(encoded) > before) == (not trainer.args.cache_pictures)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == TINY_RUN["max_steps"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluation_keeps_latents_beside_the_model(store, tmp_path, encoded):
    """Measured with the file or without it, the figures are the same."""
    split = make_split(store, "leave_one_out")
    run(store, split, ModelArguments(**TINY), config_of(tmp_path / "model", max_steps=2))
    folder = tmp_path / "data"
    folder.mkdir()
    rows = store.items.with_format("arrow")[:]
    pq.write_table(rows, folder / "items.parquet")
    store.interactions.to_parquet(folder / "interactions.parquet")
    options = EvaluateArguments(model=str(tmp_path / "model"), dataset=str(folder), tasks=["recommend"])
    seen = sum(encoded)
    with_file = evaluate_model(options)[0]
    assert sum(encoded) == seen
    (tmp_path / "model" / LATENTS).unlink()
    (tmp_path / "model" / FEATURES).unlink()
    without = evaluate_model(options)[0]
    assert sum(encoded) == seen + num_pictures(store)
    assert (tmp_path / "model" / LATENTS).is_file()
    assert json.dumps(with_file["tasks"]) == json.dumps(without["tasks"])
