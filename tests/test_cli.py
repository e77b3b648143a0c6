"""The command, from a folder of tables to recommendations."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from unimp import UniMPConfig, UniMPProcessor
from unimp.cli import INTERRUPTED, main, parse
from unimp.processing import demo_store
from unimp.processing.dataset_card import stated_license
from unimp.processing.demo_store import build_demo_store
from unimp.processing.loaders.card import num_present
from unimp.processing.store import make_store, read_store, write_store
from unimp.report import print_recommendations, say
from unimp.training.recipe import ModelArguments
from unimp.training.trainer import UniMPTrainingConfig

SMALL = """
hidden_size: 32
num_layers: 1
num_heads: 2
vocab_size: 400
image_size: 32
num_latents: 2
full_chunks: 1
item_text_length: 12
dropout: 0.1
per_device_train_batch_size: 4
max_steps: 3
num_passes: 20
learning_rate: 1e-3
disable_tqdm: false
task_rates: {recommend: 1, rate: 0.5}
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config(tmp_path) -> str:
    (tmp_path / "small.yaml").write_text(SMALL)
    return str(tmp_path / "small.yaml")


def write_rows(path: Path, rows: list[dict]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def write_folder(tmp_path):
    """A store of 40 items and 8 people, in one of the formats that are read."""

    def write(kind: str = "parquet") -> Path:
        items, interactions = build_demo_store(num_items=40, num_users=8)
        folder = tmp_path / kind
        if kind == "parquet":
            write_store(items, interactions, folder)
            return folder
        (folder / "images").mkdir(parents=True)
        rows = [dict(item) for item in items]
        for row in rows:
            if (picture := row.pop("image")) is not None:
                picture.save(folder / "images" / f"{row['item_id']}.png")
        write_rows(folder / f"items.{kind}", rows)
        write_rows(folder / f"interactions.{kind}", [dict(event) for event in interactions])
        return folder

    return write


# Options


@dataclass
class Options:
    dataset: str = field(metadata={"help": "."})
    size: int = 3
    names: list[str] = field(default_factory=list)
    fast: bool = True
    limit: int | None = 3


def options(tmp_path, text: str, *arguments: str) -> Options:
    (tmp_path / "file.yaml").write_text(text)
    return parse(["--config", str(tmp_path / "file.yaml"), *arguments], Options)[0]


def test_the_command_line_counts_more_than_the_file_and_that_more_than_the_default(tmp_path):
    assert options(tmp_path, "dataset: a\nsize: 5") == Options("a", 5)
    assert options(tmp_path, "dataset: a\nsize: 5", "--size", "7", "--dataset=b") == Options("b", 7)
    assert options(tmp_path, "dataset: a\nnames: [x, 2]\nfast: false") == Options("a", names=["x", "2"], fast=False)
    assert options(tmp_path, "", "--dataset", "a", "--no_fast") == Options("a", fast=False)


def test_null_in_the_file_is_none_where_an_option_allows_it(tmp_path):
    assert options(tmp_path, "dataset: a\nlimit: null").limit is None
    assert options(tmp_path, "dataset: a\nlimit:").limit is None
    assert options(tmp_path, "dataset: a\nlimit: null", "--limit", "5").limit == 5
    assert options(tmp_path, "dataset: a").limit == 3
    (tmp_path / "model.yaml").write_text("full_chunks: null\nvision: null")
    arguments = parse(["--config", str(tmp_path / "model.yaml")], ModelArguments)[0]
    assert (arguments.full_chunks, arguments.vision) == (None, None)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("dataset: a\nsize: null", [], "`size` in `--config` .* has no value"),
        ("dataset:", [], "`dataset` in `--config` .* has no value"),
        ("datset: a", [], "`datset` in `--config` .* is not an option: did you mean `dataset`?"),
        ("dataset: a", ["--sise", "4"], "`--sise` is not an option: did you mean `size`?"),
        ("dataset: a", ["--siz", "4"], "`--siz` is not an option: did you mean `size`?"),
        ("dataset: a", ["--zzz"], "`--zzz` is not an option: there are dataset, fast, limit, names, size."),
        ("dataset: a\nsize: many", [], "size: invalid int value: 'many'"),
        ("size: 4", [], "required: --dataset"),
        ("- dataset", [], "must hold lines such as"),
        ("dataset: [", [], "is not YAML"),
    ],
)
def test_wrong_options_are_named(tmp_path, text, arguments, message):
    with pytest.raises(ValueError, match=message):
        options(tmp_path, text, *arguments)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 0, "usage: unimp COMMAND"),
        (["--help"], 0, "usage: unimp COMMAND"),
        (["trian"], 2, "unknown command 'trian': did you mean `train`?"),
        (["train"], 1, "the following arguments are required: --dataset"),
        (
            ["train", "--dataset", "x", "--later_weights", "0.4", "-1"],
            1,
            "`later_weights` must be numbers of at least 0",
        ),
        (["train", "--dataset", "x", "--attention_dropout", "0.1"], 1, "`--attention_dropout` is not an option"),
        (["data", "clean"], 1, "`unimp data` knows `prepare`, got 'clean'"),
        (["data", "prepare", "movilens"], 1, "must be followed by one of movielens, "),
        (["data", "prepare", "movielens"], 1, "the following arguments are required: --raw, --output_dir"),
        (["data", "prepare", "movielens", "--raw", "/nowhere", "--output_dir", "x"], 1, "/nowhere"),
        (["evaluate"], 1, "the following arguments are required: --model, --dataset"),
        (["evaluate", "--model", "a/x", "--dataset", "/nowhere"], 1, "no such folder"),
        (["evaluate", "--model", "a/x", "--dataset", "y", "--batch_size", "0"], 1, "`batch_size` must be at least 1"),
        (["evaluat"], 2, "unknown command 'evaluat': did you mean `evaluate`?"),
        (["dat"], 2, "unknown command 'dat': did you mean `data`?"),
        (["train", "--dataset", "/nowhere"], 1, "no such folder"),
        (["train", "--dataset", "x", "--task_rates", "recommend"], 1, "`task_rates` must be JSON"),
        (["train", "--config", "/nowhere.yaml"], 1, "/nowhere.yaml"),
        (["train", "--dataset", "x", "--visual_scope", "first"], 1, "`visual_scope` must be one of last, all"),
        (["train", "--dataset", "x", "--visual_prompt_tokens", "2"], 1, "set `cross_attention_every` to 0, got 1"),
        (["train", "--dataset", "x", "--visual_prompt_tokens", "-1"], 1, "`visual_prompt_tokens` must be at least 0"),
        (
            ["train", "--dataset=x", "--full_chunks=3", "--cross_attention_every=0", "--visual_prompt_tokens=200"],
            1,
            "leave no room in `prompt_length` 512",
        ),
        (["train", "--dataset", "x", "--num_heads", "3"], 1, "`hidden_size` must be a multiple of twice `num_heads`"),
        (["train", "--dataset", "x", "--hidden_size", "0"], 1, "`hidden_size` must be at least 1"),
        (["train", "--dataset", "x", "--rating_range", "1"], 1, "`rating_range` must be the lowest and the highest"),
        (["train", "--dataset", "x", "--model", "a/y", "--num_latents", "9"], 1, "`num_latents` cannot be given"),
        (["train", "--dataset", "x", "--packing", "true"], 1, "`packing` has no effect here"),
        (["recommend"], 1, "Give `--history ITEM_ID ...`"),
        (["recommend", "--user_id", "ann"], 1, "`--user_id` needs `--dataset FOLDER`"),
        (["recommend", "--history", "a"], 1, "unimp quickstart"),
    ],
)
def test_what_is_wrong_takes_one_line(arguments, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    output = capsys.readouterr()
    assert message in output.out + output.err
    if status:
        assert output.err.count("\n") == 1


def test_a_setting_that_a_strict_configuration_refuses_takes_one_line(capsys, monkeypatch):
    monkeypatch.setattr("unimp.cli._recommend", lambda arguments: UniMPConfig(visual_scope="first"))
    assert main(["recommend"]) == 1
    errors = capsys.readouterr().err
    assert "visual_scope" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("random", "`split` must be one of"),
        ("leave_last_0", "`split` must be one of"),
        ("new_domain", "`split` must be one of"),
        ("new_domain:nothing=1", "`items` has no attribute 'nothing'"),
        ("new_domain:category=", "`split` must be one of"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_split_that_there_is_not_takes_one_line(write_folder, tmp_path, config, capsys, command, split, message):
    arguments = [command, "--dataset", str(write_folder()), "--output_dir", str(tmp_path / "out"), "--split", split]
    arguments += ["--config", config] if command == "train" else ["--model", "owner/model"]
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert len([line for line in errors.splitlines() if "unimp:" in line]) == 1
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "module"), [("data", "unimp.data"), ("evaluate", "unimp.evaluate"), ("quickstart", "unimp.cli")]
)
def test_a_command_is_given_what_follows_its_name(command, module, monkeypatch):
    told = []
    name = "_quickstart" if module == "unimp.cli" else "main"
    monkeypatch.setattr(f"{module}.{name}", lambda arguments: told.append(list(arguments)) or 7)
    assert main([command, "prepare", "--x", "1"]) == 7
    assert told == [["prepare", "--x", "1"]]


def test_every_command_is_in_the_overview(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for command in ("quickstart", "data", "train", "evaluate", "recommend"):
        assert f"\n  {command} " in printed


def test_no_later_weights_are_an_empty_list_in_the_file(tmp_path):
    (tmp_path / "file.yaml").write_text("output_dir: x\nlater_weights: []\ndropout: 0.3")
    training, model = parse(["--config", str(tmp_path / "file.yaml")], UniMPTrainingConfig, ModelArguments)
    assert training.later_weights == []
    assert model.dropout == 0.3
    arguments = ["--output_dir", "x", "--later_weights", "0.5", "0.25", "0.1"]
    assert parse(arguments, UniMPTrainingConfig)[0].later_weights == [0.5, 0.25, 0.1]
    assert parse(arguments[:2], UniMPTrainingConfig)[0].later_weights == [0.4, 0.16]


@pytest.mark.parametrize("command", ["quickstart", "train", "evaluate", "recommend"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit_status:
        main([command, "--help"])
    assert exit_status.value.code == 0
    assert "--config CONFIG" in capsys.readouterr().out


# Training and recommending


def test_what_train_suggests_reads_ratings_as_it_did(write_folder, tmp_path, config, capsys):
    folder, result = str(write_folder("csv")), str(tmp_path / "model")
    train = ["train", "--dataset", folder, "--output_dir", result, "--config", config, "--rating_range", "4", "5"]
    assert main(train) == 0
    suggested = re.findall(r"^  unimp ((?:evaluate|recommend) .*)$", capsys.readouterr().out, re.MULTILINE)
    assert [main(shlex.split(command)) for command in suggested] == [0, 0]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_train_then_recommend(write_folder, tmp_path, config, capsys, kind):
    folder, result = str(write_folder(kind)), tmp_path / "model"
    assert main(["train", "--dataset", folder, "--output_dir", str(result), "--config", config]) == 0
    printed = capsys.readouterr().out
    assert "recommend" in printed
    assert "popularity" in printed
    metrics = json.loads((result / "metrics.json").read_text())
    assert set(metrics["metrics"]) == {"recommend", "rate"}
    assert metrics["split"] == "leave_one_out: each person's last event"
    assert set(metrics["metrics"]["recommend"]["model"]) >= {"hr@1", "hr@10", "ndcg@20"}
    assert "leave_one_out: each person's last event" in " ".join(printed.split())
    trained, total = (int(n.replace(",", "")) for n in re.search(r"Trained (\S+) of (\S+) param", printed).groups())
    assert 0 < trained < total
    assert f"The model is in {result}. Next:" in printed
    [suggested] = re.findall(r"^  unimp (recommend .*)$", printed, re.MULTILINE)
    assert main(shlex.split(suggested)) == 0
    assert "History, oldest first" in capsys.readouterr().out
    card = (result / "README.md").read_text()
    assert "of the people which items they chose close together (`neighbours`" in card
    assert "model-index" in card
    assert "On leave_one_out: each person's last event." in card
    assert "held-out people" not in card
    assert main(["recommend", "--model", str(result), "--history", "item-0001", "item-0002", "--top_k", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("item-") == 5
    user = "user-0003"
    assert main(["recommend", "--model", str(result), "--dataset", folder, "--user_id", user]) == 0
    assert main(["recommend", "--model", str(result), "--dataset", folder, "--user_id", "nobody"]) == 1
    assert main(["recommend", "--model", str(result), "--history", "nothing"]) == 1
    for name in ("no-model", "./no-model", "/no/model"):
        assert main(["recommend", "--model", name, "--history", "item-0001"]) == 1
    assert main(["evaluate", "--model", "no-model", "--dataset", folder]) == 1
    errors = capsys.readouterr().err
    assert "`user_id` 'nobody' is not in" in errors
    assert "people, such as 'user-" in errors
    assert "`history` has 'nothing', which is not one of the catalogue's 40 item ids, such as 'item-" in errors
    for name in ("no-model", "./no-model", "/no/model"):
        assert f"`model` {name!r} is no folder here, nor a Hub id" in errors


@pytest.mark.parametrize("split", ["leave_last_2", "cold_items", "user_holdout", "new_domain:category=coat"])
def test_train_on_any_split_then_evaluate(write_folder, tmp_path, config, capsys, split):
    folder, result = str(write_folder()), tmp_path / "model"
    command = ["train", "--dataset", folder, "--split", split, "--output_dir", str(result), "--config", config]
    assert main([*command, "--max_steps", "1"]) == 0
    metrics = json.loads((result / "metrics.json").read_text())
    assert metrics["split"].startswith(split.partition("=")[0])
    assert len(UniMPProcessor.from_pretrained(result).catalog) == 40
    command = ["evaluate", "--model", str(result), "--dataset", folder, "--split", split, "--tasks", "recommend"]
    assert main([*command, "--output_dir", str(tmp_path / "figures")]) == 0
    figures = json.loads((tmp_path / "figures" / "results.json").read_text())
    measured = figures["tasks"]["recommend"]["systems"]["model"]["hr@10"]["value"]
    assert measured == pytest.approx(metrics["metrics"]["recommend"]["model"]["hr@10"])
    assert figures["counts"]["items_added"] == 0
    assert "recommend" in capsys.readouterr().out


def test_a_persons_events_are_the_history(write_folder, tmp_path, config, monkeypatch):
    folder, result = str(write_folder()), str(tmp_path / "model")
    assert main(["train", "--dataset", folder, "--output_dir", result, "--config", config]) == 0
    asked = []
    call = UniMPProcessor.__call__
    monkeypatch.setattr(
        UniMPProcessor, "__call__", lambda self, samples, **kw: asked.extend(samples) or call(self, samples, **kw)
    )
    monkeypatch.setattr("transformers.pipeline", partial(pipeline, processor=UniMPProcessor.from_pretrained(result)))
    assert main(["recommend", "--model", result, "--dataset", folder, "--user_id", "user-0003"]) == 0
    [request] = asked
    events = [e for e in read_store(folder).interactions if e["user_id"] == "user-0003"]
    by_time = sorted((event["timestamp"], event["item_id"], event["behavior"], event["rating"]) for event in events)
    told = [tuple(e[key] for key in ("timestamp", "item_id", "behavior", "rating")) for e in request["history"]]
    assert sorted(told) == by_time
    assert any(rating is not None for *_, rating in told)


def test_a_trained_model_goes_on_with_a_store_that_has_grown(write_folder, tmp_path, config, capsys, caplog):
    folder, result, again = write_folder("jsonl"), str(tmp_path / "model"), tmp_path / "again"
    assert main(["train", "--dataset", str(folder), "--output_dir", result, "--config", config]) == 0
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    items[0]["title"] = "Renamed"
    new = [items[1] | {"item_id": item_id} for item_id in ("new-1", "new-2")]
    write_rows(folder / "items.jsonl", items + new)
    (folder / "images" / "new-1.png").write_bytes(next((folder / "images").iterdir()).read_bytes())
    (folder / "images" / "new-2.png").write_bytes(b"damaged")
    events = [json.loads(line) for line in (folder / "interactions.jsonl").read_text().splitlines()]
    events += [event | {"item_id": item["item_id"], "user_id": "new"} for item in new for event in events[-1:]]
    write_rows(folder / "interactions.jsonl", events)
    command = ["train", "--dataset", str(folder), "--model", result, "--output_dir", str(again), "--max_steps", "2"]
    with caplog.at_level("INFO"):
        assert main([*command, "--num_passes", "1", "--eval_strategy", "steps", "--eval_steps", "1"]) == 0
    assert "1 pictures could not be read" in caplog.text
    assert "Items of the model: 2 added, 1 replaced." in caplog.text
    state = json.loads((again / "checkpoint-2" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [1, 2]
    catalog = UniMPProcessor.from_pretrained(again).catalog
    assert len(catalog) == 42
    assert catalog.has_image(40)
    assert not catalog.has_image(41)
    assert catalog.attributes(0)["title"] == "Renamed"
    assert main(["recommend", "--model", str(again), "--history", "new-1"]) == 0
    write_rows(folder / "interactions.jsonl", [*events[:-1], events[-1] | {"rating": 50.0}])
    assert main(command) == 1
    assert "`rating` must lie within [1.0, 5.0]" in capsys.readouterr().err
    assert main([*command, "--num_passes", "1", "--rating_range", "1", "5"]) == 0


def test_what_looks_like_markup_is_printed_as_it_is(capsys):
    history = [{"item_id": "[red]1", "title": "Coat [/b]"}]
    answers = [{"item_id": ":hat:", "score": -1.0, "item": {"item_id": ":hat:", "title": "[bold]Hat[/] :hat:\\"}}]
    print_recommendations(history, answers)
    say("in [/x] [red]there")
    printed = capsys.readouterr().out
    for text in ("[red]1", "Coat [/b]", ":hat:", "[bold]Hat[/] :hat:\\", "in [/x] [red]there"):
        assert text in printed


def test_data_that_cannot_be_used(write_folder, tmp_path, config, capsys):
    folder = write_folder("jsonl")
    interactions = folder / "interactions.jsonl"
    run = ["train", "--dataset", str(folder), "--output_dir", str(tmp_path / "out"), "--config", config]
    interactions.write_text('{"user_id": "u", "item_id": "gone", "timestamp": 1}\n')
    assert main(run) == 1
    interactions.write_text("")
    assert main(run) == 1
    interactions.unlink()
    assert main(run) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len([line for line in errors if line.startswith("unimp: ")]) == 3
    assert not [line for line in errors if "Traceback" in line]


def test_ratings_that_are_no_numbers_are_counted(write_folder, tmp_path, config, caplog):
    folder = write_folder("jsonl")
    rows = [json.loads(line) for line in (folder / "interactions.jsonl").read_text().splitlines()]
    for row in rows[:3]:
        row["rating"] = float("nan")
    write_rows(folder / "interactions.jsonl", rows)
    arguments = ["train", "--dataset", str(folder), "--output_dir", str(tmp_path / "out"), "--config", config]
    with caplog.at_level("WARNING"):
        assert main(arguments) == 0
    assert "altered 3 rows" in caplog.text


def test_nothing_to_resume(write_folder, tmp_path, config, capsys):
    arguments = ["train", "--dataset", str(write_folder()), "--output_dir", str(tmp_path / "out"), "--config", config]
    assert main([*arguments, "--resume"]) == 1
    assert "there is no checkpoint in" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_was(write_folder, tmp_path, config):
    folder = write_folder()
    command = [sys.executable, "-m", "unimp.cli", "train", "--dataset", str(folder), "--config", config]
    command += ["--max_steps", "120", "--output_dir"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.PIPE, env=environment) as process:
        seen = b""
        while not re.search(rb" [1-9]\d?/120 ", seen):  # steps 1 to 99
            seen += process.stderr.read1() or pytest.fail(seen.decode())
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().decode()
        assert process.wait(timeout=60) == INTERRUPTED, rest
    assert "Go on with --resume." in rest
    assert "Traceback" not in rest
    [checkpoint] = (tmp_path / "cut").glob("checkpoint-*")
    assert 1 <= int(checkpoint.name.partition("-")[2]) < 120
    for arguments in ([str(tmp_path / "cut"), "--resume"], [str(tmp_path / "whole")]):
        subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True, timeout=120)
    cut, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)


def test_a_picture_of_any_kind_is_read(write_folder, tmp_path, config):
    folder = write_folder("csv")
    picture = next((folder / "images").iterdir())
    buffer = io.BytesIO()
    Image.new("L", (5, 9)).save(buffer, format="JPEG")
    picture.write_bytes(buffer.getvalue())
    assert main(["train", "--dataset", str(folder), "--output_dir", str(tmp_path / "out"), "--config", config]) == 0


def test_the_demo_store_as_a_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(demo_store, "build_demo_store", partial(build_demo_store, num_items=40, num_users=20))
    with caplog.at_level("INFO"):
        assert main(["data", "prepare", "demo", "--output_dir", str(tmp_path), "--seed", "3"]) == 0
    assert "20 people, 40 items" in caplog.text
    store, expected = read_store(tmp_path), make_store(*build_demo_store(num_items=40, num_users=20, seed=3))
    assert store.interactions[:] == expected.interactions[:]
    assert (
        store.items.with_format("arrow")[:]
        .drop_columns("image")
        .equals(expected.items.with_format("arrow")[:].drop_columns("image"))
    )
    assert num_present(store.items, "image") == num_present(expected.items, "image") > 0
    assert stated_license(store.card) == "apache-2.0"
    assert "## Terms\n\nLicence: apache-2.0." in (tmp_path / "README.md").read_text()
    assert main(["data", "prepare", "demo", "--output_dir", str(tmp_path), "--raw", "x"]) == 1
