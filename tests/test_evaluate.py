"""`unimp evaluate`, on a tiny model that was never trained and a tiny store."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image
from transformers import BertConfig, BertModel, set_seed

from unimp.evaluate import main
from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import cold_items, leave_one_out
from unimp.processing.store import make_store, read_store, write_store
from unimp.training.card import write_model_card
from unimp.training.continued import continue_with
from unimp.training.evaluation import evaluate_ranking
from unimp.training.held_out import held_out_samples
from unimp.training.metrics import ranking_values
from unimp.training.recipe import ModelArguments, build, load
from unimp.training.trainer import UniMPTrainingConfig

TINY = {
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "vocab_size": 400,
    "image_size": 32,
    "num_latents": 2,
    "full_chunks": 1,
    "item_text_length": 12,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save_model(store, folder, **options):
    set_seed(0)
    model, processor = build(store, ModelArguments(**TINY, **options))
    for rows in model.row_modules():  # so that scores differ
        torch.nn.init.normal_(rows.learned)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_model_card(folder, model, UniMPTrainingConfig(output_dir=str(folder)), {})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a data set and a model that knows its items."""
    folder = tmp_path_factory.mktemp("home")
    write_store(*build_demo_store(num_items=40, num_users=16), folder / "store")
    save_model(read_store(folder / "store"), folder / "model")
    return folder


@pytest.fixture
def evaluate(home, tmp_path):
    def run(*options, model="model", dataset="store"):
        folders = {"model": home / model, "dataset": home / dataset, "output_dir": tmp_path / "out"}
        arguments = [f"--{name}={folder}" for name, folder in folders.items()]
        assert main([*arguments, *options]) == 0
        return json.loads((tmp_path / "out" / "results.json").read_text())

    return run


def test_everything_is_measured_written_and_shown(evaluate, home, tmp_path, capsys):
    results = evaluate()
    assert list(results["tasks"]) == ["recommend", "search", "rate", "explain", "select"]
    assert results["title"] == "store, leave_one_out: each person's last event"
    assert results["counts"]["people"] == results["counts"]["rows"] == 16
    assert (results["counts"]["items"], results["counts"]["items_added"]) == (40, 0)
    store = read_store(home / "store")
    trained = sum(map(len, leave_one_out(store.interactions).train["item_id"]))
    assert results["counts"]["train_events"] == trained
    recommend = results["tasks"]["recommend"]
    names = {"hr@1", "ndcg@5", "mrr@20", "hr@10_of_100", "coverage@10", "gini@10", "novelty@10", "diversity@10"}
    assert names < set(recommend["systems"]["model"])
    texts = {"bleu", "rouge1", "rouge2", "rougeL", "meteor", "rmse", "mae", "without_rating"}
    assert texts <= set(results["tasks"]["explain"]["systems"]["model"])
    figure = recommend["systems"]["model"]["hr@10"]
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert recommend["systems"]["model"]["coverage@10"]["low"] is None
    assert set(recommend["compared"]) == {"model / popularity", "model / random", "model / words"}
    assert sum(group["rows"] for group in recommend["strata"]["history_length"]) == 16
    assert sum(group["rows"] for group in recommend["strata"]["popularity"]) == 16
    written = {path.name for path in (tmp_path / "out").iterdir()}
    plots = {"metrics.png", "hit_rate_by_history_length.png", "hit_rate_by_popularity.png"}
    assert written == {"results.json", "ranks.npz", "table.md"} | plots
    for name in plots:
        assert len(set(Image.open(tmp_path / "out" / name).convert("L").get_flattened_data())) > 5
    printed = capsys.readouterr().out
    assert f"{figure['low']:.4f} to {figure['high']:.4f}" in printed
    assert "16 people, 40 items, of which 0 new to the model." in printed


def test_ranks_are_there_to_be_compared(evaluate, tmp_path):
    results = evaluate("--tasks", "recommend", "rate", "select")
    assert list(results["tasks"]) == ["recommend", "rate", "select"]
    ranks = np.load(tmp_path / "out" / "ranks.npz")
    about = {"user_id", "item_id", "model"}
    assert set(ranks) == {f"{task}/{name}" for task in ("recommend", "select") for name in about} | {
        "recommend/popularity",
        "recommend/words",
        "select/random",
    }
    assert len(set(ranks["recommend/user_id"].tolist())) == 16
    f1 = results["tasks"]["select"]["systems"]["model"]["f1"]["value"]
    assert ranks["select/model"].mean() == pytest.approx(f1)
    found = {name: figure["value"] for name, figure in results["tasks"]["recommend"]["systems"]["model"].items()}
    expected = {name: own.mean() for name, own in ranking_values(ranks["recommend/model"]).items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert results["tasks"]["recommend"]["without_rank"] == int(np.isinf(ranks["recommend/model"]).sum())


def test_two_processes_find_what_one_finds(evaluate, home, tmp_path):
    options = ["--batch_size", "5", "--split", "leave_last_2"]
    one = evaluate(*options)
    assert one["counts"]["rows"] > one["counts"]["people"]
    ranks = dict(np.load(tmp_path / "out" / "ranks.npz"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    folders = [f"--model={home / 'model'}", f"--dataset={home / 'store'}", f"--output_dir={tmp_path / 'two'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*launch, "-m", "unimp.evaluate", *folders, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "two" / "results.json").read_text()) == one
    two = dict(np.load(tmp_path / "two" / "ranks.npz"))
    assert {name: values.tolist() for name, values in two.items()} == {
        name: values.tolist() for name, values in ranks.items()
    }
    assert done.stdout.count("Everything is in") == 1


def test_the_model_card_tells_it_to_the_hub(evaluate, home):
    def entries():
        card = ModelCard.load(home / "model" / "README.md")
        name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
        assert name == "model"
        return card, results

    results = evaluate("--tasks", "recommend")
    evaluate("--tasks", "rate", "--split", "user_holdout")
    card, found = entries()
    [hit_rate] = [entry for entry in found if entry.metric_type == "hr@10" and entry.dataset_config == "leave_one_out"]
    figure = results["tasks"]["recommend"]["systems"]["model"]["hr@10"]
    assert hit_rate.metric_value == round(figure["value"], 4)
    assert hit_rate.metric_args == {"bootstrap_interval_95": [round(figure["low"], 4), round(figure["high"], 4)]}
    assert (hit_rate.task_type, hit_rate.metric_name) == ("unimp-recommend", "Hit rate@10")
    assert (hit_rate.dataset_type, hit_rate.dataset_split) == ("store", "test")
    assert hit_rate.dataset_name == "store, leave_one_out: each person's last event"
    assert {"rmse", "mae"} <= {entry.metric_type for entry in found if entry.dataset_config == "user_holdout"}
    assert "## Evaluation: store, leave_one_out: each person's last event\n\n| task" in card.text
    assert f"| recommend | hr@10 | model | {figure['value']:.4f} |" in card.text
    assert card.text.index("## Evaluation: store, user_holdout") < card.text.index("## Training")
    evaluate("--tasks", "recommend")  # again: it says the same once
    again, same = entries()
    assert len(same) == len(found)
    assert sorted(again.text.split("\n")) == sorted(card.text.split("\n"))


def test_items_that_the_model_does_not_know_are_added_to_it(evaluate, home, tmp_path, caplog):
    """As a model trained without the held-out items would be evaluated on them."""
    store = read_store(home / "store")
    split = cold_items(store.interactions)
    known = [item not in split.new_items for item in store.items["item_id"]]
    kept = make_store(
        store.items.select(np.flatnonzero(known)),
        store.interactions.filter(lambda event: event["item_id"] not in split.new_items),
    )
    save_model(kept, home / "cold-model")
    results = evaluate("--split", "cold_items", "--tasks", "recommend", model="cold-model")
    assert results["counts"]["items_added"] == results["counts"]["items_not_to_be_trained"] == len(split.new_items)
    [group] = results["tasks"]["recommend"]["strata"]["popularity"]
    assert (group["group"], group["rows"]) == ("never", len(split.test))
    assert "was trained with" not in caplog.text
    # They are ranked by their content: alike, none of several could have a rank that is a whole number.
    ranks = np.load(tmp_path / "out" / "ranks.npz")["recommend/model"]
    assert len(split.new_items) % 2 == 0
    assert (ranks % 1 == 0).all()
    assert len(set(ranks)) >= len(split.new_items)
    # And as the model says that is saved with them.
    model, processor = continue_with(*load(str(home / "cold-model")), store)
    asked = held_out_samples(split.test, "recommend", store.items["item_id"][:])
    assert ranks.tolist() == evaluate_ranking(model, processor, asked, "recommend").tolist()
    evaluate("--split", "cold_items", "--tasks", "recommend", "--new_item_bias", "50", model="cold-model")
    assert np.load(tmp_path / "out" / "ranks.npz")["recommend/model"].max() <= len(split.new_items)
    evaluate("--split", "cold_items", "--tasks", "recommend")  # the model of all items
    assert f"was trained with {len(split.new_items)} of the {len(split.new_items)} items" in caplog.text


def test_only_items_of_the_data_set_are_ranked(evaluate, home):
    """The model knows 40 items, the data set has those that anyone chose."""
    store = read_store(home / "store")
    chosen = set(store.interactions["item_id"])
    few = store.items.filter(lambda item: item["item_id"] in chosen)
    few = few.select(range(15))
    some = set(few["item_id"])
    write_store(few, store.interactions.filter(lambda event: event["item_id"] in some), home / "small")
    results = evaluate("--tasks", "search", dataset="small")
    assert results["counts"]["items"] == 15
    assert results["tasks"]["search"]["systems"]["random"]["hr@5"]["value"] == pytest.approx(5 / 15)


def test_a_sample_of_people(evaluate, home):
    card = (home / "model" / "README.md").read_text()
    results = evaluate("--max_people", "5", "--tasks", "rate")
    assert (home / "model" / "README.md").read_text() == card
    assert (results["counts"]["people"], results["counts"]["people_of_split"]) == (5, 16)
    assert results["settings"]["max_people"] == 5
    assert results["title"].endswith("(5 of 16 people)")
    assert evaluate("--max_people", "5", "--tasks", "rate") == results
    assert evaluate("--max_people", "5", "--tasks", "rate", "--seed", "1") != results


def test_what_the_files_do_not_say_is_not_on_the_card(evaluate, home):
    card = (home / "model" / "README.md").read_text()
    results = evaluate(
        "--tasks", "recommend", "--new_item_bias", "3", "--history_window", "2", "--word_similarity", "0"
    )
    settings = results["settings"]
    assert (settings["new_item_bias"], settings["history_window"], settings["word_similarity"]) == (3.0, 2, 0.0)
    assert (home / "model" / "README.md").read_text() == card


def test_the_output_is_in_the_models_folder_by_default(home, tmp_path):
    shutil.copytree(home / "model", tmp_path / "model")
    options = ["--tasks", "rate", "--split", "new_domain:category=coat"]
    assert main([f"--model={tmp_path / 'model'}", f"--dataset={home / 'store'}", *options]) == 0
    assert (tmp_path / "model" / "evaluation-new_domain-category-coat" / "results.json").is_file()


def test_another_split_than_the_one_trained_with_is_told(evaluate, home, caplog):
    path = home / "model" / "metrics.json"
    path.write_text(json.dumps({"split": "leave_one_out: each person's last event"}))
    try:
        assert "another split" not in evaluate("--tasks", "rate")["title"]
        assert "was trained with the split" not in caplog.text
        title = evaluate("--tasks", "rate", "--split", "user_holdout")["title"]
        assert title.endswith(", by a model that was trained with another split")  # which is what the card says, too
        assert "was trained with the split" in caplog.text
        caplog.clear()
        path.write_text(json.dumps({"split": "new_domain:category=coat: people and items never trained on"}))
        evaluate("--tasks", "rate", "--split", "new_domain:category=coat")
        assert "was trained with the split" not in caplog.text
        evaluate("--tasks", "rate", "--split", "new_domain:category=hat")
        assert "was trained with the split" in caplog.text
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "leave_two_out"], "`split` must be one of leave_one_out, leave_last_N"),
        (["--split", "new_domain:colour=red"], "no attribute 'colour'"),
        (["--tasks", "recomend"], "`task` must be one of recommend"),
        (["--batch_size", "0"], "`batch_size` must be at least 1, got 0"),
        (["--max_people", "0"], "`max_people` must be at least 1, got 0"),
        (["--rating_range", "1"], "`rating_range` must be the lowest and the highest"),
        (["--item_encoder", "x"], "`item_encoder` 'x' has no use"),
        (["--feature_similarity", "2"], r"`feature_similarity` 2.0 .* needs `item_feature_size`"),
        (["--feature_whitening", "1"], "`feature_whitening` 1.0 has no use without `feature_similarity`"),
    ],
)
def test_wrong_options_are_refused(evaluate, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed=-1"], "`seed` must be at least 0, got -1"),
        (["--feature_similarity=-1"], "`feature_similarity` must be at least 0, got -1.0"),
        (["--word_similarity=nan"], "`word_similarity` must be at least 0, got nan"),
        (["--feature_whitening=1.5"], "`feature_whitening` must lie between 0 and 1, got 1.5"),
        (["--feature_whitening=nan"], "`feature_whitening` must lie between 0 and 1, got nan"),
        (["--history_window=-1"], "`history_window` must be at least 0, got -1"),
        (["--tasks"], "`tasks` is empty: name at least one of recommend, search"),
        (["--output_dir={file}"], "`output_dir` must be a folder, but .*file is a file"),
        (["--output_dir={file}/deep/down"], "`output_dir` must be a folder, but .*file is a file"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(tmp_path, options, message):
    (tmp_path / "file").write_text("")
    options = [option.format(file=tmp_path / "file") for option in options]
    with pytest.raises(ValueError, match=message):
        main(["--model=no/where", "--dataset=nowhere", *options])


def test_errors_are_one_line_under_a_launcher_too():
    done = subprocess.run(
        [sys.executable, "-m", "unimp.evaluate", "--model=a", "--dataset=b", "--batch_size=0"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    assert done.stderr == "unimp: `batch_size` must be at least 1, got 0.\n"


def test_the_encoder_of_a_model_must_be_the_one_it_was_made_with(evaluate, home):
    store = read_store(home / "store")
    texts = home / "texts"
    tokenizer = load(str(home / "model"))[1].tokenizer
    for width in (8, 16):
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
        BertModel(config).save_pretrained(texts / str(width))
        tokenizer.save_pretrained(texts / str(width))
    some = set(store.items["item_id"][1:])
    fewer = make_store(
        store.items.select(range(1, len(store.items))),
        store.interactions.filter(lambda event: event["item_id"] in some),
    )
    save_model(fewer, home / "encoder-model", item_encoder=str(texts / "8"))
    options = ["--tasks", "rate"]
    with pytest.raises(ValueError, match=r"`item_encoder` is needed: .* 1 new and 0 changed items"):
        evaluate(*options, model="encoder-model")
    with pytest.raises(ValueError, match=r"`item_encoder` .* width 16, but `model` has .* width 8"):
        evaluate(*options, "--item_encoder", str(texts / "16"), model="encoder-model")
    results = evaluate(*options, "--item_encoder", str(texts / "8"), model="encoder-model")
    assert results["counts"]["items_added"] == 1
    options = ["--item_encoder", str(texts / "8"), "--tasks", "recommend", "--feature_similarity"]
    without, much = (
        evaluate(*options, weight, model="encoder-model")["tasks"]["recommend"]["systems"] for weight in ("0", "50")
    )
    assert without["random"] == much["random"]
    assert without["model"]["mrr@20"] != much["model"]["mrr@20"]
    with pytest.raises(ValueError, match=r"`feature_whitening` 1\.0 has no use without `feature_similarity`"):
        evaluate(*options, "0", "--feature_whitening", "1", model="encoder-model")
    white = evaluate(*options, "50", "--feature_whitening", "1", model="encoder-model")
    assert white["settings"]["feature_whitening"] == 1
    assert white["tasks"]["recommend"]["systems"]["model"]["mrr@20"] != much["model"]["mrr@20"]


def test_a_data_set_without_answers_is_refused(evaluate, home):
    store = read_store(home / "store")
    write_store(store.items, store.interactions.remove_columns("query"), home / "no-queries")
    with pytest.raises(ValueError, match="has nobody with an answer to search"):
        evaluate("--tasks", "search", dataset="no-queries")


def test_events_that_the_model_cannot_read_are_refused(evaluate, home):
    store = read_store(home / "store")
    stars = store.interactions.map(lambda event: {"rating": event["rating"] and 2 * event["rating"]})
    write_store(store.items, stars, home / "ten-stars")
    with pytest.raises(ValueError, match="`rating` must lie within"):
        evaluate(dataset="ten-stars")
