"""Requests in, answers out: in this process, and in a fresh one that has nothing but the checkpoint's folder."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import BloomConfig, GPT2Config, LlamaConfig, pipeline

import unimp
from unimp import Catalog
from unimp.processing import pipelines_unimp
from unimp.processing.pipelines_unimp import UniMPRecommendPipeline
from unimp.processing.tasks_unimp import ANSWER_LENGTH, check_prompt_length

from .conftest import TASK_NAMES, draw_picture, make_model, make_processor, make_request

HISTORIES = [
    ["shirt", "hat", "socks"],
    [],
    [{"item_id": "coat", "rating": 2, "behavior": "view"}, {"title": "Cap", "image": draw_picture(60)}],
    ["gloves", {"title": "Bag"}, "hat", "hat", "scarf"],
    ["belt"],
]


def make_pipeline(task, model, processor, **kwargs):
    pipeline_class = getattr(pipelines_unimp, f"UniMP{task.title()}Pipeline")
    return pipeline_class(model=model, processor=processor, **kwargs)


@pytest.fixture
def pipe(shared, task):
    return make_pipeline(task, *shared)


@pytest.fixture
def recommend(shared):
    return make_pipeline("recommend", *shared)


def ids(answer):
    return [entry["item_id"] for entry in answer]


def same(first, second):
    """Equal but for the last digits of scores."""
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict) and "score" in first:
        return first["item"] == second["item"] and first["score"] == pytest.approx(second["score"], abs=1e-4)
    if isinstance(first, dict) and set(first) == {"rating"}:
        return first["rating"] == pytest.approx(second["rating"], abs=1e-4)
    return first == second


# Inputs


def test_a_batch_is_answered_as_one_by_one(pipe, task):
    requests = [make_request(task, history) for history in HISTORIES]
    alone = [pipe(request) for request in requests]
    assert same(pipe(requests, batch_size=4), alone)
    assert same(pipe(requests), alone)


def test_what_a_request_list_may_be(pipe, task):
    requests = [make_request(task, history) for history in HISTORIES[:3]]
    answers = pipe(requests)
    assert isinstance(answers, list)
    assert same(pipe(tuple(requests)), answers)
    assert same(list(pipe(iter(requests), batch_size=2)), answers)
    assert same(list(pipe(request for request in requests)), answers)
    for empty in ([], (), iter(()), (request for request in [])):
        assert list(pipe(empty)) == []


def test_a_generator_is_read_as_it_goes(recommend):
    read = []

    def requests():
        for number in range(6):
            read.append(number)
            yield make_request("recommend")

    answers = recommend(requests(), batch_size=2)
    next(answers)
    assert len(read) <= 3


# Recommend and search


def test_recommendations_are_best_first(recommend, shared):
    model, processor = shared
    request = make_request("recommend")
    answer = recommend(request, top_k=3)
    scores = model.score_items(**processor(request))[0]
    seen = [processor.catalog.position(item_id) for item_id in request["history"]]
    expected = [position for position in scores.argsort(descending=True).tolist() if position not in seen][:3]
    assert ids(answer) == [processor.catalog.item_ids[position] for position in expected]
    for entry, position in zip(answer, expected, strict=True):
        assert set(entry) == {"item_id", "score", "item"}
        assert entry["score"] == pytest.approx(scores[position].item(), abs=1e-5)
        assert entry["item"] == processor.catalog.item(position)


def test_scores_are_log_probabilities_over_the_catalogue(recommend):
    answer = recommend({"history": []}, top_k=100)
    assert len(answer) == 8
    assert torch.tensor([entry["score"] for entry in answer]).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_seen_items_are_left_out_unless_asked_for(recommend, shared):
    request = {"history": ["shirt", {"item_id": "hat", "rating": 3}, {"title": "Cap"}]}
    assert sorted(ids(recommend(request))) == sorted({"shoes", "scarf", "coat", "socks", "belt", "gloves"})
    assert len(recommend(request, exclude_seen=False)) == 8
    search = make_pipeline("search", *shared)
    assert len(search(request | {"query": "hat"})) == 8
    assert len(search(request | {"query": "hat"}, exclude_seen=True)) == 6


def test_a_search_finds_items_by_their_words_untrained():
    processor = make_processor()
    model = make_model(processor)
    processor.catalog.add([{"item_id": "kettle", "title": "Copper kettle"}])
    processor.index_catalog(model)
    search = make_pipeline("search", model, processor)
    requests = [{"history": ["shirt"], "query": query} for query in ("leather gloves", "a copper kettle", "grey coat")]
    answers = search(requests, top_k=1, batch_size=2)
    assert [ids(answer) for answer in answers] == [["gloves"], ["kettle"], ["coat"]]


def test_when_all_is_seen_nothing_is_left(recommend, shared):
    everything = shared[1].catalog.item_ids
    assert recommend({"history": everything}) == []
    both = recommend([{"history": everything}, {"history": everything[:-1]}], batch_size=2)
    assert [ids(answer) for answer in both] == [[], ["gloves"]]


def test_removed_items_are_never_returned():
    processor = make_processor()
    model = make_model(processor)
    processor.catalog.remove(["hat", "gloves"])
    for task in ("recommend", "search"):
        pipe = make_pipeline(task, model, processor)
        for request in (make_request(task), make_request(task, [])):
            answer = pipe(request, top_k=8, exclude_seen=False)
            assert sorted(ids(answer)) == sorted({"shirt", "shoes", "scarf", "coat", "socks", "belt"})


def test_a_filter_of_the_shop_is_kept_exactly(recommend, shared):
    catalog = shared[1].catalog
    request = {"history": ["shirt", "hat"]}
    scores = {entry["item_id"]: entry["score"] for entry in recommend(request, top_k=8, exclude_seen=False)}
    for candidates in (["coat", "belt", "hat", "coat"], ("gloves",), [], list(catalog.item_ids)):
        answer = recommend(request, top_k=8, candidates=candidates)
        left = set(candidates) - {"shirt", "hat"}
        assert ids(answer) == sorted(left, key=lambda item_id: -scores[item_id])
        assert all(entry["score"] == pytest.approx(scores[entry["item_id"]], abs=1e-5) for entry in answer)
        assert set(ids(recommend(request, candidates=candidates, exclude_seen=False))) == set(candidates)
    answers = recommend([request, {"history": ["coat"]}], batch_size=2, candidates=["coat", "hat"])
    assert [ids(answer) for answer in answers] == [["coat"], ["hat"]]
    search = make_pipeline("search", *shared, candidates=["hat", "belt"])
    assert set(ids(search(request | {"query": "hat"}))) == {"hat", "belt"}


@pytest.mark.parametrize(
    ("candidates", "shown"), [(["coat", "cap"], "'cap'"), ("coat", "'coat'"), (5, "5"), ([["coat"]], r"\['coat'\]")]
)
def test_a_filter_of_something_else_is_refused(recommend, candidates, shown):
    with pytest.raises(ValueError, match=f"`candidates` must be .*item ids.*, got {shown}"):
        recommend({"history": []}, candidates=candidates)


def test_what_is_available_is_looked_up_again_when_the_catalogue_changes():
    processor = make_processor()
    recommend = make_pipeline("recommend", make_model(processor), processor)
    assert "hat" in ids(recommend({"history": []}))
    kept = recommend._unavailable_items()
    assert recommend._unavailable_items() is kept
    processor.catalog.remove(["hat", "coat"])
    assert recommend._unavailable_items().tolist() == [1, 4]
    assert not {"hat", "coat"} & set(ids(recommend({"history": []}, candidates=["hat", "belt", "coat"])))
    processor.catalog.replace([{"item_id": "hat", "available": True}])
    assert "hat" in ids(recommend({"history": []}))


def test_parameters_of_the_pipeline_hold_until_a_call_says_otherwise(shared):
    recommend = make_pipeline("recommend", *shared, top_k=2, exclude_seen=False)
    assert len(recommend({"history": ["hat"]})) == 2
    assert len(recommend({"history": ["hat"]}, top_k=8)) == 8
    assert len(recommend({"history": ["hat"]}, top_k=8, exclude_seen=True)) == 7
    assert len(recommend({"history": ["hat"]})) == 2


def test_whole_numbers_of_numpy_are_taken_and_others_refused(recommend):
    requests = [{"history": history} for history in HISTORIES[:3]]
    answers = recommend(requests, top_k=np.int64(3), batch_size=np.int32(2))
    assert answers == recommend(requests, top_k=3, batch_size=2)
    assert recommend.start_session(["hat"]).recommend(top_k=np.uint8(2)) == recommend({"history": ["hat"]}, top_k=2)
    for name, wrong in itertools.product(("top_k", "batch_size"), (np.int64(0), np.float64(3), True, np.True_, "3")):
        with pytest.raises(ValueError, match=f"`{name}` must be a whole number of at least 1, got "):
            recommend(requests, **{name: wrong})


# Rate, explain, select


def test_ratings_are_of_the_range_or_none(shared):
    for task, keys in (("rate", {"rating"}), ("explain", {"rating", "explanation"})):
        answers = make_pipeline(task, *shared)([make_request(task, history) for history in HISTORIES], batch_size=5)
        for answer in answers:
            assert set(answer) == keys
            assert answer["rating"] is None or 1 <= answer["rating"] <= 5


@pytest.mark.parametrize(
    ("text", "explain"),
    [
        ("4: Warm", {"rating": 4.0, "explanation": "Warm"}),
        ("3", {"rating": 3.0, "explanation": None}),
        ("77", {"rating": None, "explanation": None}),
        ("who knows", {"rating": None, "explanation": None}),
    ],
)
def test_answers_are_read(shared, text, explain):
    processor = shared[1]
    eos = processor.tokenizer.eos_token_id
    generated = [[*processor.format.text(text), eos, eos]]  # shorter than the others of its batch
    assert make_pipeline("explain", *shared).postprocess(generated) == [explain]


def test_a_rating_is_the_mean_over_the_levels(shared):
    model, processor = shared
    request = make_request("rate", HISTORIES[-1])
    levels, texts = processor.rating_answers()
    assert levels.tolist() == [1, 2, 3, 4, 5]
    scores = model.score_texts(texts, **processor(request, task="rate"))[0]
    expected = sum(score.exp() * level for score, level in zip(scores, levels, strict=True)) / scores.exp().sum()
    assert make_pipeline("rate", *shared)(request)["rating"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("rating_range", "levels"), [((1, 5), [1, 2, 3, 4, 5]), ((0.2, 0.7), [0.2, 0.7])])
def test_a_rating_range_of_any_numbers(shared, rating_range, levels):
    processor = make_processor(rating_range=rating_range)
    assert processor.rating_answers()[0].tolist() == pytest.approx(levels)
    answer = make_pipeline("rate", shared[0], processor)(make_request("rate"))
    assert levels[0] <= answer["rating"] <= levels[-1]


def test_only_candidates_are_selected(shared):
    select = make_pipeline("select", *shared)
    for candidates in (["coat"], ["coat", "belt"], ["coat", "belt", "coat"], list(shared[1].catalog.item_ids)):
        for history in HISTORIES:
            answer = select({"history": history, "candidates": candidates})
            assert 1 <= len(answer) <= len(set(candidates))
            assert len(set(ids(answer))) == len(answer)
            assert set(ids(answer)) <= set(candidates)
            assert all(entry["item"]["item_id"] == entry["item_id"] for entry in answer)


# What does not fit together


def test_a_model_without_rows_for_new_items_is_refused():
    processor = make_processor()
    model = make_model(processor)
    pipe = UniMPRecommendPipeline(model=model, processor=processor)
    processor.catalog.add([{"item_id": "cap"}])
    with pytest.raises(ValueError, match=r"`model` has 8 item codes, .* 9 items: call `processor.index_catalog"):
        pipe({"history": ["cap"]})
    with pytest.raises(ValueError, match=r"`model` has 8 item codes, .* 9 items: call `processor.index_catalog"):
        UniMPRecommendPipeline(model=model, processor=processor)
    processor.index_catalog(model)
    assert len(UniMPRecommendPipeline(model=model, processor=processor)({"history": []})) == 9
    assert len(pipe({"history": ["cap"]})) == 8


def test_a_processor_of_another_model_is_refused(shared):
    model, processor = shared
    with pytest.raises(ValueError, match="`processor` is needed"):
        UniMPRecommendPipeline(model=model)
    size = processor.text_vocab_size
    with pytest.raises(ValueError, match=rf"`model` has a text vocabulary of {size} tokens.*`text_vocab_size`"):
        UniMPRecommendPipeline(model=model, processor=make_processor(text_vocab_size=size + 1))
    with pytest.raises(ValueError, match=r"`num_behaviors`"):
        UniMPRecommendPipeline(model=model, processor=make_processor(behavior_kinds=list("abcdef")))
    other = make_processor(Catalog.from_items([{"item_id": "a"}]))
    with pytest.raises(ValueError, match="`model` has 8 item codes"):
        UniMPRecommendPipeline(model=model, processor=other)
    with pytest.raises(ValueError, match=r"by 64 tokens .*`item_text_length`.* writes 32"):
        UniMPRecommendPipeline(model=model, processor=make_processor(item_text_length=32))


def test_another_catalogue_of_as_many_items_is_refused(shared, monkeypatch):
    model, processor = shared
    reordered = Catalog.from_items([{"item_id": item_id} for item_id in reversed(processor.catalog.item_ids)])
    with pytest.raises(ValueError, match=r"`model` was made for another catalogue \(`catalog_fingerprint`"):
        UniMPRecommendPipeline(model=model, processor=make_processor(reordered))
    monkeypatch.setattr(model.config, "catalog_fingerprint", None)  # of a model whose rows were given by hand
    UniMPRecommendPipeline(model=model, processor=make_processor(reordered))


@pytest.mark.parametrize("config", [LlamaConfig(max_position_embeddings=100), GPT2Config(n_positions=100)])
def test_a_prompt_and_its_answer_fit_into_the_decoder(config):
    check_prompt_length(100 - ANSWER_LENGTH, config)
    with pytest.raises(ValueError, match=r"`max_length` is 37 tokens.* has 100 positions: set `max_length` to 36"):
        check_prompt_length(101 - ANSWER_LENGTH, config)


def test_a_decoder_that_states_no_positions_takes_any_prompt():
    check_prompt_length(10**6, BloomConfig())


def test_a_processor_of_longer_prompts_than_the_decoder_takes_is_refused(shared):
    UniMPRecommendPipeline(model=shared[0], processor=make_processor(max_length=2048 - 64))
    with pytest.raises(ValueError, match="`max_length` is 1985 tokens"):
        UniMPRecommendPipeline(model=shared[0], processor=make_processor(max_length=2048 - 63))


def test_a_model_in_training_answers_without_dropout(shared):
    model, processor = shared
    model.train()
    recommend = UniMPRecommendPipeline(model=model, processor=processor)
    assert not model.training
    assert recommend(make_request("recommend")) == recommend(make_request("recommend"))


# Folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared):
    """A checkpoint, away from where it was saved."""
    model, processor = shared
    saved, folder = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("elsewhere") / "checkpoint"
    model.save_pretrained(saved)
    processor.save_pretrained(saved)
    shutil.copytree(saved, folder)
    shutil.rmtree(saved)
    return folder


def requests():
    """Requests that can be written as JSON."""
    histories = [["shirt", "hat"], [], [{"title": "Cap"}, {"item_id": "coat", "rating": 2}]]
    return {task: [make_request(task, history) for history in histories] for task in TASK_NAMES}


@pytest.fixture(scope="module")
def expected(shared):
    return {task: make_pipeline(task, *shared)(samples) for task, samples in requests().items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_pipeline_saves_all_that_pipelines_need(tmp_path, shared, expected):
    make_pipeline("rate", *shared).save_pretrained(tmp_path)
    for task, samples in requests().items():
        pipe = pipeline(f"unimp-{task}", model=str(tmp_path), trust_remote_code=True)
        assert same(pipe(samples), expected[task])


# Only what a checkpoint may need: torch, transformers, Pillow, pyarrow, numpy and what these bring.
BLOCKED = (
    *("unimp", "modeling_unimp", "processing", "training"),
    *("datasets", "trl", "peft", "accelerate", "rich", "torchmetrics", "pandas", "scipy", "sklearn"),
)
FRESH_PROCESS = """
import importlib.machinery, json, sys


class NotInstalled(importlib.machinery.PathFinder):
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in {blocked!r}:
            return importlib.machinery.PathFinder.find_spec(name, path, target)


def without_editable(finder):
    return finder is not importlib.machinery.PathFinder and "editable" not in getattr(finder, "__name__", "").lower()


sys.meta_path = [NotInstalled, *filter(without_editable, sys.meta_path)]
for name in {blocked!r}:
    try:
        __import__(name)
    except ImportError:
        continue
    raise RuntimeError(name + " is there")
import torch
torch.set_num_threads(1)
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, pipeline

folder, copy, samples, answers = sys.argv[1:]
result = {{}}
for task, requests in json.load(open(samples)).items():
    pipe = pipeline("unimp-" + task, model=folder, trust_remote_code=True)
    result[task] = pipe(requests, batch_size=2)
json.dump(result, open(answers, "w"))
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    model = auto.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == "UniMPForConditionalGeneration", type(model)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__name__ == "UniMPProcessor", type(processor)
processor.index_catalog(model)
model.save_pretrained(copy)
processor.save_pretrained(copy)
pipe.save_pretrained(copy + "-of-a-pipeline")
"""


def run_fresh(folder, copy, work):
    """What a process that has never heard of this project answers with a folder, and saves again."""
    (work / "samples.json").write_text(json.dumps(requests()))
    script = work / "fresh.py"
    script.write_text(FRESH_PROCESS.format(blocked=BLOCKED))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(work / "home"), "HF_MODULES_CACHE": str(work / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script), str(folder), str(copy), "samples.json", "answers.json"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads((work / "answers.json").read_text())


def test_a_fresh_process_answers_with_the_folder_alone(tmp_path, folder, expected):
    """And so does another one, with what a pipeline of the first one saved: the same as model and processor."""
    for number, source in enumerate((folder, tmp_path / "copy-0-of-a-pipeline")):
        (tmp_path / f"work-{number}").mkdir()
        answers = run_fresh(source, tmp_path / f"copy-{number}", tmp_path / f"work-{number}")
        assert answers.keys() == expected.keys()
        for task in expected:
            assert same(answers[task], json.loads(json.dumps(expected[task])))
    names = [sorted(path.name for path in place.iterdir()) for place in (folder, tmp_path / "copy-1")]
    assert names[0] == names[1]
    for path in (tmp_path / "copy-0").iterdir():
        if path.name != "tokenizer_config.json":  # transformers notes there which type a pipeline's weights had
            assert path.read_bytes() == (tmp_path / "copy-0-of-a-pipeline" / path.name).read_bytes(), path.name
    assert {"catalog.parquet", "pipelines_unimp.py", "processing_unimp.py", "modeling_unimp.py"} <= set(names[0])


# No model given


@pytest.mark.parametrize("name", TASK_NAMES)
def test_without_a_model_the_error_says_how_to_get_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`model` was not given, .* `unimp quickstart`"):
        pipeline(f"unimp-{name}")


def test_without_a_model_the_quickstart_one_is_used(tmp_path, monkeypatch, folder, expected):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / unimp.QUICKSTART_DIR)
    for task, samples in requests().items():
        assert same(pipeline(f"unimp-{task}")(samples), expected[task])
