"""What `unimp push` would upload, and what it refuses; with a Hub: `tests/hub`."""

import csv
import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard
from PIL import Image
from transformers import AutoModel

from unimp.cli import main
from unimp.processing.dataset_card import read_card, stated_license
from unimp.processing.demo_store import build_demo_store
from unimp.processing.store import read_store, write_store
from unimp.push import dataset_upload, model_upload

from .processing.conftest import make_model, make_processor

SMALL = {
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "vocab_size": 400,
    "image_size": 32,
    "max_steps": 1,
    "num_passes": 1,
    "task_rates": {"recommend": 1},
}


@pytest.fixture(autouse=True)
def _nobody_is_reached(monkeypatch):
    """What is refused is refused before anything is sent."""

    def never(*arguments, **kwargs):
        raise AssertionError("nothing may be sent")

    monkeypatch.setattr("unimp.push.push", never)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "folder"
    processor = make_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "folder")
    return tmp_path / "folder"


def refusal(capsys, *arguments):
    """What the command says when it refuses, without the listing before."""
    assert main(["push", *map(str, arguments)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("unimp: ")
    assert said.err.count("\n") == 1
    return said.err


# Licences


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"license": "mit"}, "mit"),
        ({"license": "other", "license_name": "movielens"}, "movielens"),
        ({"license": ["cc-by-4.0", "mit"]}, "cc-by-4.0, mit"),
        ({"license": "other"}, None),
        ({"license": "unknown"}, None),
        ({"license": "other", "license_name": "unknown"}, None),
        ({}, None),
    ],
)
def test_what_counts_as_a_stated_licence(fields, name):
    assert stated_license(DatasetCardData(**fields)) == name


def test_without_a_card_no_licence_is_stated(tmp_path):
    assert stated_license(read_card(tmp_path)) is None


@pytest.mark.parametrize("text", ["# Only text", "---\na: [1\n---\n", "---\n- a list\n---\n", "---\n\n---\n"])
def test_a_card_that_says_nothing_is_no_error(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert stated_license(read_card(tmp_path)) is None


def test_pictures_without_a_licence_are_refused(folder, capsys):
    said = refusal(capsys, "--model", folder, "--repo_id", "a/b", "--yes")
    assert "has pictures of 5 items, and nothing says under which licence" in said
    assert "--allow_unlicensed_pictures" in said
    assert str(folder / "README.md") in said


@pytest.mark.parametrize("how", ["stated", "told", "no pictures"])
def test_otherwise_it_asks(folder, capsys, monkeypatch, how):
    options = ["--model", str(folder), "--repo_id", "a/b"]
    if how == "stated":
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    elif how == "told":
        options.append("--allow_unlicensed_pictures")
    else:
        pq.write_table(pq.read_table(folder / "catalog.parquet").drop_columns(["image"]), folder / "catalog.parquet")
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["push", *options]) == 1
    assert "Nothing was uploaded." in capsys.readouterr().out


def test_nobody_there_to_answer(folder, capsys, monkeypatch):
    def nobody(question):
        raise EOFError

    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr("builtins.input", nobody)
    assert "give `--yes`" in refusal(capsys, "--model", folder, "--repo_id", "a/b")


def test_the_licence_of_a_data_set_becomes_the_models(tmp_path):
    """From the folder's card, by `unimp train`, into the model card's front matter and text."""
    store = tmp_path / "store"
    write_store(*build_demo_store(num_items=40, num_users=8), store)
    front = {"license": "other", "license_name": "house-rules", "license_link": "https://a.b/c", "pretty_name": "Shop"}
    (store / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n\n# Shop\n")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    config = ["--config", str(tmp_path / "small.yaml")]
    assert main(["train", "--dataset", str(store), "--output_dir", str(tmp_path / "out"), *config]) == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "house-rules")
    assert card.data.license_link == "https://a.b/c"
    assert stated_license(card.data) == "house-rules"
    people = len(read_store(store).interactions.unique("user_id"))
    assert "Trained on Shop, but for what the metrics are measured on" in card.text
    assert f"{len(read_store(store).interactions)} events of {people} people in all,\n40 items" in card.text
    assert "Licence: house-rules." in card.text
    upload = model_upload(tmp_path / "out", "me/shop")
    assert upload.pictures == sum(item["image"] is not None for item in read_store(store).items)
    assert "metrics.json" not in upload.files


# Models


def test_a_card_is_written_where_there_is_none(folder):
    upload = model_upload(folder, "me/mine")
    assert "# me/mine" in upload.card.text
    assert upload.card.data.library_name == "transformers"
    parameters = sum(p.numel() for p in AutoModel.from_pretrained(folder).parameters())
    assert f"{parameters:,} parameters, 8 items" in upload.card.text
    assert not (folder / "README.md").exists()


def test_only_the_name_is_changed_in_a_card(folder):
    """Of a folder whose name is a word like any other."""
    text = '# out\n\nWhat is left out\n\n    pipeline(model="out")\n'
    (folder / "README.md").write_text(f"---\nlicense: mit\nmodel_name: out\n---\n\n{text}")
    card = ModelCard(model_upload(folder, "me/mine").card_for("me/mine").decode())
    assert card.text.strip() == text.strip().replace("# out", "# me/mine").replace('"out"', '"me/mine"')
    assert card.data.license == "mit"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.safetensors", "has no weights"),
        ("catalog.parquet", "has no catalogue"),
        ("processing_unimp.py", "has no processing_unimp.py"),
        ("pipelines_unimp.py", "has no pipelines_unimp.py"),
        ("columns_unimp.py", "has no columns_unimp.py"),
        ("config.json", "has no config.json"),
    ],
)
def test_half_a_model_is_refused(folder, capsys, name, told):
    (folder / name).unlink()
    assert told in refusal(capsys, "--model", folder, "--repo_id", "a/b", "--yes")


def test_another_model_and_an_adapter_are_refused(folder, capsys):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert "of type 'llama'" in refusal(capsys, "--model", folder, "--repo_id", "a/b", "--yes")
    (folder / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in refusal(capsys, "--model", folder, "--repo_id", "a/b", "--yes")


@pytest.mark.parametrize("options", [[], ["--model", "a", "--dataset", "b"]])
def test_a_model_or_a_data_set(capsys, options):
    assert "`--model DIR` or `--dataset FOLDER`" in refusal(capsys, "--repo_id", "a/b", *options)


@pytest.mark.parametrize("text", ["---\na: [1\n---\n", "---\n- a list\n---\n"])
def test_a_card_that_cannot_be_read_is_refused(folder, capsys, text):
    (folder / "README.md").write_text(text)
    assert "The front matter of" in refusal(capsys, "--model", folder, "--repo_id", "a/b", "--yes")


def test_pictures_alone_are_no_weights(folder, capsys):
    (folder / "model.safetensors").rename(folder / "picture_latents.safetensors")
    assert "has no weights" in refusal(capsys, "--model", folder, "--repo_id", "a/b", "--yes")


# Data sets


@pytest.fixture
def tables(tmp_path):
    """A store in text files, pictures beside them."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "images" / "a.png")
    for name, rows in {
        "items": [["item_id", "title"], ["a", "Red scarf"], ["b", "Hat"]],
        "interactions": [["user_id", "item_id", "timestamp"], ["u", "a", 1], ["u", "b", 2], ["v", "b", 3]],
    }.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def test_a_data_set_becomes_what_the_hub_shows(tables, tmp_path):
    upload = dataset_upload(tables, "me/shop", tmp_path / "place")
    assert set(upload.files) == {"items.parquet", "interactions.parquet"}
    assert upload.pictures == 1
    there = read_store(tmp_path / "place")
    assert there.items["title"][:] == ["Red scarf", "Hat"]
    assert there.items[0]["image"]["bytes"] == (tables / "images" / "a.png").read_bytes()
    card = DatasetCard(upload.card_for("me/shop").decode())
    assert [entry["data_files"] for entry in card.data.configs] == ["interactions.parquet", "items.parquet"]
    for line in ("# shop", "| people | 2 |", "| items with a picture | 1 |", "| items | `title` | an attribute |"):
        assert line in card.text
    assert stated_license(card.data) is None


def test_a_data_sets_own_card_is_kept(tables, tmp_path):
    (tables / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n\n# My shop\n\nBe kind.\n")
    card = DatasetCard(dataset_upload(tables, "me/shop", tmp_path / "place").card_for("me/shop").decode())
    assert card.text.strip() == "# My shop\n\nBe kind."
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert len(card.data.configs) == 2


def test_a_data_sets_pictures_need_a_licence_too(tables, capsys):
    said = refusal(capsys, "--dataset", tables, "--repo_id", "me/shop", "--yes")
    assert "has pictures of 1 items" in said
    assert str(tables / "README.md") in said
