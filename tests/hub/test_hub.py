"""Up to a Hub and down again, through `huggingface_hub` itself: a real server, real processes, a fresh cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import ModelCard
from transformers import pipeline

from unimp import UniMPImagePipeline
from unimp.processing.demo_store import build_demo_store
from unimp.processing.store import write_store

from ..processing.conftest import make_model, make_processor
from ..processing.test_image_pipeline import make_preference, make_scheduler, make_unet
from .server import Hub, Repo

HERE = Path(__file__).parent
SECRETS = {".env": "HF_TOKEN=hf_owner", "_picture_features.safetensors": "", "metrics.json": "{}", "notes.txt": ""}
CARD = """---
license: cc-by-4.0
model_name: folder
model-index:
- name: folder
  results:
  - task: {type: unimp-recommend}
    dataset: {name: leave_one_out, type: custom}
    metrics: [{type: hr@10, value: 0.25}]
---

# folder

    pipeline("unimp-recommend", model="folder")
"""


def run(script, hub, home, *arguments, **environment):
    """A script's JSON; nothing of this machine's own settings reaches it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "XDG_"))}
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(
        command, env=kept | settings | environment, cwd=home.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that draws, with pictures, and beside it what is nobody's business."""
    folder = tmp_path_factory.mktemp("models") / "folder"
    processor = make_processor()
    model = make_model(processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name, text in {**SECRETS, "README.md": CARD}.items():
        (folder / name).write_text(text)
    parts = make_unet(), make_scheduler(), make_preference(model)
    UniMPImagePipeline(model, processor, *parts).save_pretrained(folder / "imagine")
    (folder / "imagine" / "imagine_checkpoint.safetensors").write_bytes(b"half")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "model.safetensors").write_bytes(b"old")
    return folder


@pytest.fixture(scope="module")
def published(hub, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("publisher")
    store = place / "store"
    write_store(*build_demo_store(num_items=40, num_users=8), store)
    (store / "README.md").write_text("---\nlicense: cc0-1.0\npretty_name: A store\n---\n\n# A store\n")
    return run("publish.py", hub, place / "home", folder, store)


@pytest.fixture(scope="module")
def reader(hub, published, tmp_path_factory):
    """What someone with an empty cache was answered, and what again when the Hub was gone."""
    demo = hub.repo("someone/unimp-demo")
    gated = hub.repos["model", "someone/gated"] = Repo(gated=True)
    gated.commit("main", demo.commits[demo.resolve("main")], "the same")
    home = tmp_path_factory.mktemp("reader") / "home"
    online = run("read.py", hub, home, "online")
    before = sum(hub.requests.values())
    offline = run("read.py", hub, home, "offline", HF_HUB_OFFLINE="1")
    assert sum(hub.requests.values()) == before
    return online, offline


# Up


def test_everything_that_belongs_to_the_model_is_there_and_nothing_else(hub, published, folder):
    files = hub.files("someone/unimp-demo")
    left_out = {*SECRETS, "checkpoint-3", "imagine"}
    top = {name for name in files if "/" not in name}
    assert top == {path.name for path in folder.iterdir()} - left_out
    assert {"model.safetensors", "catalog.parquet", "processor_config.json", "tokenizer.json"} <= set(files)
    assert {"modeling_unimp.py", "pipelines_unimp.py", "generation_config.json"} <= set(files)
    for name in set(files) - {"README.md"}:
        assert files[name] == (folder / name).read_bytes(), name


def test_the_card_speaks_of_where_it_is(hub, published):
    card = ModelCard(hub.files("someone/unimp-demo")["README.md"].decode())
    assert "# someone/unimp-demo" in card.text
    assert 'model="someone/unimp-demo"' in card.text
    assert card.data.license == "cc-by-4.0"
    index = card.data.to_dict()["model-index"][0]
    assert index["name"] == "someone/unimp-demo"
    assert index["results"][0]["metrics"] == [{"type": "hr@10", "value": 0.25}]


def test_an_interrupted_upload_leaves_nothing_and_is_repeated(hub, published):
    first, second = published["interrupted"], published["repeated"]
    assert first["status"] == 1
    assert "The upload to someone/unimp-demo broke off" in first["said"]
    assert "the same command again" in first["said"]
    assert "Traceback" not in first["said"]
    assert second["status"] == 0
    assert f"Uploaded: {hub.url}/someone/unimp-demo" in second["said"]
    assert hub.count("POST", "/api/models/someone/unimp-demo/commit/main") == 2


def test_a_large_file_that_arrived_is_not_sent_again(hub, published):
    """Every one once, and the one that broke off twice: by the client itself."""
    puts = {path: n for (method, path), n in hub.requests.items() if method == "PUT"}
    assert set(puts) == {f"/lfs/{sha256}" for sha256 in hub.lfs}
    assert sorted(puts.values())[-2:] == [1, 2]


def test_it_is_one_commit(hub, published):
    repo = hub.repo("someone/unimp-demo")
    assert published["unchanged"]["status"] == published["branch"]["status"] == 0
    assert repo.messages == ["Upload a UniMP model"]  # what has not changed needs none


def test_it_says_what_it_uploads_and_how_much(published):
    said = published["repeated"]["said"]
    for text in (
        "model.safetensors",
        "attention_unimp.py ... ",
        "weights",
        "catalogue",
        "5 items with a",
        "cc-by-4.0",
    ):
        assert text in said
    for text in ("notes.txt", "HTTP Request"):
        assert text not in said


def test_a_branch(hub, published):
    assert published["branch"]["status"] == 0
    assert published["branch"]["said"].rstrip().endswith("/someone/unimp-demo/tree/v2")
    assert hub.files("someone/unimp-demo", revision="v2").keys() == hub.files("someone/unimp-demo").keys()


def test_private(hub, published):
    assert hub.repo("someone/hidden").private
    assert not hub.repo("someone/unimp-demo").private


def test_what_is_to_be_private_does_not_go_where_everybody_reads(hub, published):
    assert published["private again"]["status"] == 0
    assert published["private over public"]["status"] == 1
    assert "someone/unimp-demo is there already, and public" in published["private over public"]["said"]
    assert hub.repo("someone/unimp-demo").resolve("v3") is None


def test_who_may_not_is_told_what_to_do(published):
    for name in ("not mine", "wrong token"):
        assert published[name]["status"] == 1
        assert published[name]["said"].count("unimp: ") == 1
    assert "'else/where': your token may not write there" in published["not mine"]["said"]
    assert "The Hub does not know you: log in with `hf auth login`" in published["wrong token"]["said"]


def test_push_to_hub_shards_and_says_what_the_model_is(hub, published):
    repo = hub.repo("someone/from-python")
    sharded = next(
        files for files in repo.commits.values() if "model.safetensors.index.json" in files and len(files) > 5
    )
    shards = [name for name in sharded if name.endswith(".safetensors")]
    assert len(shards) > 2
    assert set(json.loads(sharded["model.safetensors.index.json"].data)["weight_map"].values()) == set(shards)
    assert {"catalog.parquet", "processing_unimp.py", "modeling_unimp.py"} <= set(sharded)
    card = sharded["README.md"].data.decode()
    assert "More Information Needed" not in card
    for text in ("# someone/from-python", "unimp-select", "8 items", "## Limits and bias", "@inproceedings"):
        assert text in card


def test_weights_of_an_earlier_upload_do_not_stay_beside_the_new_ones(hub, published):
    files = hub.files("someone/from-python")
    weights = [name for name in files if name.endswith((".safetensors", ".index.json")) and "/" not in name]
    assert weights == ["model.safetensors"]


def test_a_data_set(hub, published, tmp_path):
    assert published["dataset"]["status"] == 0
    files = hub.files("someone/store", kind="dataset")
    assert set(files) == {"items.parquet", "interactions.parquet", "README.md"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    items = load_dataset(str(tmp_path), "items", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(items) == 40
    assert items.features["image"].decode
    assert "license: cc0-1.0" in files["README.md"].decode()


def test_the_server_was_asked_for_nothing_it_does_not_speak(hub, reader):
    assert hub.errors == []


# Down


def test_what_draws_is_there_without_the_recommender_again(hub, published, tmp_path):
    files = hub.files("someone/unimp-demo")
    parts = {name.split("/")[1] for name in files if name.startswith("imagine/")}
    assert parts == {"model_index.json", "preference", "scheduler", "unet"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    imagine = pipeline("unimp-imagine", model=str(tmp_path), device="cpu")
    result = imagine({"history": ["hat"]}, num_inference_steps=2, num_candidates=2, use_answer=False)
    assert len(result.candidates) == 2


def test_a_pipeline_from_an_empty_cache_answers_as_the_folder_does(reader, folder):
    online, _ = reader
    recommend = pipeline("unimp-recommend", model=str(folder), trust_remote_code=True)
    expected = recommend({"history": ["shirt", {"title": "Red scarf"}]}, top_k=3)
    assert [item["item_id"] for item in online["recommend"]] == [item["item_id"] for item in expected]
    assert [item["score"] for item in online["recommend"]] == pytest.approx([item["score"] for item in expected])
    assert "someone" in online["module"]  # the code came along
    assert online["picture"] == [24, 24]


def test_it_works_offline_afterwards(reader):
    online, offline = reader
    for name in ("recommend", "module", "picture", "scores", "block 0", "block 1"):
        assert offline[name] == online[name]


def test_the_code_on_the_card_runs(reader):
    online, _ = reader
    """As it stands, with items that are there."""
    assert online["block 0"] == ["item_ids", "pipeline", "recommend"]
    assert {"model", "processor", "scores"} <= set(online["block 1"])


def test_no_such_revision(reader):
    assert "v9" in reader[0]["no such revision"]


def test_a_gated_model_is_refused_with_a_clear_message(reader):
    online, _ = reader
    for name in ("gated", "gated hf_stranger"):
        assert "You are trying to access a gated repo" in online[name]
        assert "someone/gated" in online[name]
    assert online["catalogue of the gated"] == ["shirt", "hat"]
