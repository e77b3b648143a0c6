"""Saving and loading: nothing is lost, nothing is garbage, and the code travels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from unimp import UniMPForConditionalGeneration

from .tiny import ITEM, NUM_ITEMS, item_embeddings, item_texts, prompt, tiny_model

CODE = {f"{name}_unimp.py" for name in ("attention", "configuration", "decoding", "items", "modeling", "outputs")}
AUTO_CLASSES = (AutoModel, AutoModelForImageTextToText, AutoModelForCausalLM)


def _same(model, other):
    expected, state = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
        assert state[name].dtype == tensor.dtype, name
    assert torch.equal(other(**prompt(ITEM)).logits, model(**prompt(ITEM)).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load_is_exact(tmp_path, decoder, tied):
    model = tiny_model(decoder, tied=tied, tie_item_embeddings=tied, item_feature_size=3)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"model.safetensors"}
    assert not list(tmp_path.glob("*.bin"))
    loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path)
    assert not loaded.training
    assert loaded.config.num_items == NUM_ITEMS
    _same(model, loaded)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


def test_items_added_after_loading_are_saved_too(tmp_path, model):
    model.config.catalog_fingerprint = "0123"
    model.save_pretrained(tmp_path / "first")
    grown = UniMPForConditionalGeneration.from_pretrained(tmp_path / "first")
    assert grown.config.catalog_fingerprint == "0123"
    grown.add_items(item_texts(3, seed=11), item_embeddings(grown, 3, seed=12))
    grown.save_pretrained(tmp_path / "second")
    loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path / "second")
    assert loaded.config.num_items == NUM_ITEMS + 3
    assert loaded.config.catalog_fingerprint is None  # it was of fewer items
    assert loaded.model.item_content.image_scale.std() > 0
    _same(grown, loaded)


def test_auto_classes_load_the_model_with_its_heads(tmp_path, model):
    model.save_pretrained(tmp_path)
    for auto_class in AUTO_CLASSES:
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is UniMPForConditionalGeneration
        _same(model, loaded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pictures_of_little_spread_in_half_precision(tmp_path, model, dtype):
    """A channel that hardly varies has a scale beyond what float16 holds, and deviations below what either tells."""
    content = model.model.item_content
    content.image_embeddings[:, 0] = 0.5 + 1e-5 * torch.arange(NUM_ITEMS)
    content.fit_image_statistics(content.image_embeddings)
    content.image_scale[0] = 96_000.0
    expected = content(model.get_input_embeddings())
    model.save_pretrained(tmp_path)
    half = UniMPForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    own = half.model.item_content(half.get_input_embeddings())
    assert own.dtype == half.dtype == dtype
    torch.testing.assert_close(own.float(), expected, rtol=2e-2, atol=2e-2)
    assert half.score_items(**prompt(ITEM)).isfinite().all()


def test_half_precision_round_trip(tmp_path, model):
    model.save_pretrained(tmp_path / "full")
    half = UniMPForConditionalGeneration.from_pretrained(tmp_path / "full", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    _same(half, UniMPForConditionalGeneration.from_pretrained(tmp_path / "half"))
    assert half.model.cross_attention[0].attention_gate.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("part", "spread"),
    [
        ("cross_attention.0.attention_gate", 0),
        ("cross_attention.2.feed_forward_gate", 0),
        ("cross_attention.1.attention.q_proj.weight", 0.2),
        ("key_values.1.v_proj.weight", 0.2),
        ("resampler.latents", 1),
        ("item_rows.learned", 0.2),
        ("item_rows.bias", 0),
        ("item_rows.projection.weight", 0.2),
        ("markers.weight", 0.2),
        ("behaviors.weight", 0.2),
        ("item_content.text_ids", 0),
        ("item_content.image_embeddings", 0),
        ("item_content.image_mean", 0),
        ("item_content.image_scale", 0),
    ],
)
def test_a_part_missing_from_the_checkpoint_starts_anew(tmp_path, model, part, spread):
    """`from_pretrained` builds on meta: what no one initialises there is garbage."""
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[f"model.{part}"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    fresh = loaded[f"model.{part}"].float()
    assert torch.isfinite(fresh).all()
    wanted = {"item_content.text_ids": -1, "item_content.image_scale": 1}.get(part, 0)
    if spread == 0:
        assert (fresh == wanted).all()
    else:
        assert fresh.mean().abs() < spread
        assert 0.6 * spread < fresh.std() < 1.4 * spread
    for name, tensor in model.state_dict().items():  # and the rest is as saved
        assert name == f"model.{part}" or torch.equal(loaded[name], tensor)


ELSEWHERE = """
import json, sys
for name in ("unimp", "unimp.modeling_unimp", "modeling_unimp"):
    sys.modules[name] = None  # our package is not installed
import torch, transformers
folder, again = sys.argv[1:]
inputs = torch.load(folder + "/inputs.pt")
expected = inputs.pop("expected")
result = {}
for name in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForCausalLM"):
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        result[name] = [type(model).__name__, type(model).__module__, torch.equal(model(**inputs).logits, expected)]
prompt = {key: value[:1] for key, value in inputs.items() if key != "pixel_values"}
result["ranked"] = model.rank_items(top_k=3, **prompt, pixel_values=inputs["pixel_values"])[1][0].tolist()
model.save_pretrained(again)
print(json.dumps(result))
"""


def _in_a_fresh_process(folder: Path, again: Path, cache: Path) -> dict:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), str(again)],
        cwd=cache,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_a_copied_folder_works_without_our_package(tmp_path, model):
    folder, again, third, cache = (tmp_path / name for name in ("copied", "again", "third", "cache"))
    cache.mkdir()
    model.save_pretrained(folder)
    for source, target in ((folder, again), (again, third)):  # and so does what is saved again from there
        assert {path.name for path in source.glob("*.py")} >= CODE
        inputs = prompt(ITEM)
        with torch.no_grad():
            torch.save({**inputs, "expected": model(**inputs).logits}, source / "inputs.pt")
        result = _in_a_fresh_process(source, target, cache)
        for auto_class in AUTO_CLASSES:
            name, module, same = result[auto_class.__name__]
            assert name == "UniMPForConditionalGeneration"
            assert module.startswith("transformers_modules.")
            assert same
        assert result["ranked"] == model.rank_items(top_k=3, **inputs)[1][0].tolist()
    first, last = (json.loads((saved / "config.json").read_text()) for saved in (folder, third))
    assert first["auto_map"] == last["auto_map"]
    assert first["custom_pipelines"] == last["custom_pipelines"]
    assert set(first["auto_map"]) == {"AutoConfig", *(auto_class.__name__ for auto_class in AUTO_CLASSES)}
    assert load_file(third / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    for name in CODE:
        assert (third / name).read_text() == (folder / name).read_text()
