"""Figures on held-out people, beside plain loops and hand-made tables."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from unimp.processing import TASKS
from unimp.processing.pipelines_unimp import UniMPExplainPipeline, UniMPRatePipeline, UniMPSelectPipeline
from unimp.training import evaluation

INF = float("inf")


@pytest.fixture
def samples(split, processor):
    return lambda task: evaluation.held_out_samples(split.test, task, processor.catalog.item_ids)


@pytest.mark.parametrize("task", ["recommend", "search"])
def test_ranks_are_those_of_a_plain_loop(built, samples, task):
    model, processor = built
    asked = samples(task)[:9]
    ranks = evaluation.evaluate_ranking(model.train(), processor, asked, task, batch_size=4)
    expected = []
    for sample in asked:
        request = {key: value for key, value in sample.items() if key != "answer"}
        scores = model.score_items(**processor([request], task=task))[0]
        seen = {event["item_id"] for event in sample["history"]} if task == "recommend" else set()
        left = {i: s.item() for i, s in zip(processor.catalog.item_ids, scores, strict=True) if i not in seen}
        own = left.get(sample["answer"])
        expected.append(INF if own is None else 1 + sum(score > own + 1e-6 for score in left.values()))
    assert ranks.tolist() == pytest.approx(expected, abs=0.5)


def test_the_history_is_masked_in_recommend_only(processor):
    first, second, third = processor.catalog.item_ids[:3]
    train = Dataset.from_dict({"item_id": [[first, first, first, second, second, third]]})
    history = [{"item_id": first}]
    asked = [{"history": history, "answer": answer} for answer in (second, third, first)]
    assert evaluation.popularity_ranks(asked, train, processor).tolist() == [1, 2, INF]
    assert evaluation.popularity_ranks(asked, train, processor, "search").tolist() == [2, 3, 1]


def test_items_equally_popular_share_their_ranks(processor):
    ids = processor.catalog.item_ids
    train = Dataset.from_dict({"item_id": [[ids[0]]]})
    # One item was chosen once, 39 never: they share the ranks 2 to 40.
    assert evaluation.popularity_ranks([{"history": [], "answer": ids[7]}], train, processor).tolist() == [21]


def test_random_ranks_are_fair(processor):
    asked = [{"history": [], "answer": processor.catalog.item_ids[3]}] * 2000
    ranks = evaluation.random_ranks(asked, processor)
    assert ranks.mean() == pytest.approx(20.5, abs=1)
    assert ranks.shape == (100, 2000)
    assert np.unique(ranks).tolist() == list(range(1, 41))
    assert (ranks == evaluation.random_ranks(asked, processor)).all()


def test_a_random_order_leaves_out_the_history(processor):
    first, second, third = processor.catalog.item_ids[:3]
    history = [{"item_id": first}, {"item_id": second}, {"item_id": first}]
    asked = [{"history": history, "answer": answer} for answer in (third, second)]
    recommended, searched = (evaluation.random_ranks(asked, processor, task=task) for task in ("recommend", "search"))
    assert recommended[:, 0].max() == 38
    assert (recommended[:, 1] == INF).all()
    assert searched.max() == 40


def test_few_people_are_enough_for_the_random_figures(built, split):
    results = evaluation.evaluate(*built, split.test.select(range(8)), split.train, ["search", "select"])
    assert results["search"]["random"]["hr@10"] == pytest.approx(10 / 40, abs=0.06)
    assert 0.2 < results["select"]["random"]["precision"] < 0.7


def test_a_split_is_named_with_what_it_tests():
    assert evaluation.describe_split("leave_one_out") == "leave_one_out: each person's last event"
    assert evaluation.describe_split("user_holdout") == "user_holdout: people never trained on"
    assert evaluation.describe_split("mine") == "mine"


def test_of_figures_with_a_cutoff_those_at_ten_come_first():
    assert evaluation.headline({"hr@1": 1, "hr@10": 2, "ndcg@10": 3, "rmse": 4}) == {
        "hr@10": 2,
        "ndcg@10": 3,
        "rmse": 4,
    }


def answers_of(monkeypatch, pipeline_class, answers):
    asked = []

    def call(self, requests, batch_size):
        asked.extend(requests)
        return iter(answers)

    monkeypatch.setattr(pipeline_class, "__call__", call)
    return asked


def rated(processor, *ratings):
    ids = processor.catalog.item_ids
    return [
        {"history": [], "item": {"item_id": item_id, "rating": rating, "explanation": "such a nice red hat"}}
        for item_id, rating in zip(ids, ratings, strict=False)
    ]


def test_ratings_are_compared(built, monkeypatch):
    asked = answers_of(monkeypatch, UniMPRatePipeline, [{"rating": 4.0}, {"rating": 2.5}])
    metrics = evaluation.evaluate_ratings(*built, rated(built[1], 5.0, 3.0), fallback=3.0)
    assert metrics == pytest.approx({"rmse": (1.25 / 2) ** 0.5, "mae": 0.75})
    assert asked[0] == {"history": [], "item": built[1].catalog.item_ids[0]}  # nothing of the answer


def test_an_unreadable_rating_counts_as_the_fallback(built, monkeypatch):
    answers = [{"rating": rating, "explanation": None} for rating in (4.0, None, 1.0, None)]
    asked = answers_of(monkeypatch, UniMPExplainPipeline, answers)
    metrics = evaluation.evaluate_ratings(*built, rated(built[1], 5.0, 3.0, 1.0, 1.0), fallback=3.0, task="explain")
    # Errors: 1, 3 - 3 = 0, 0, 3 - 1 = 2.
    assert metrics == pytest.approx({"rmse": (5 / 4) ** 0.5, "mae": 3 / 4, "unreadable": 0.5, "bleu": 0})
    assert asked[0] == {"history": [], "item": built[1].catalog.item_ids[0]}  # nothing of the answer


def test_explanations_are_compared(built, monkeypatch):
    said = [{"rating": 5.0, "explanation": "such a nice red hat"}, {"rating": 3.0, "explanation": None}]
    answers_of(monkeypatch, UniMPExplainPipeline, said)
    metrics = evaluation.evaluate_ratings(*built, rated(built[1], 5.0, 3.0), fallback=3.0, task="explain")
    # All that was said is right, but half of what should have been said was not: exp(1 - 10 / 5).
    assert metrics == pytest.approx({"rmse": 0, "mae": 0, "unreadable": 0, "bleu": np.exp(-1)})


def test_selections(built, monkeypatch):
    samples = [
        {"history": [], "candidates": ["a", "b", "c"], "answer": ["a", "b"]},
        {"history": [], "candidates": ["a", "b", "c"], "answer": ["c"]},
    ]
    answers_of(monkeypatch, UniMPSelectPipeline, [[{"item_id": "a"}], [{"item_id": "a"}, {"item_id": "c"}]])
    # Precision 1 and 1/2, recall 1/2 and 1, F1 twice 2/3.
    metrics = evaluation.evaluate_selection(*built, samples)
    assert metrics == pytest.approx({"precision": 0.75, "recall": 0.75, "f1": 2 / 3})


def test_a_random_selection_is_right_as_often_as_chance(samples):
    metrics = [evaluation.random_selection(samples("select"), seed)["precision"] for seed in range(40)]
    assert np.mean(metrics) == pytest.approx(0.6 / 3 + 0.4 * 2 / 3, abs=0.06)


def test_mean_rating():
    train = Dataset.from_dict({"item_id": [["a", "b"], ["c"]], "rating": [[1.0, None], [4.0]]})
    assert evaluation.mean_rating(train, (1, 5)) == 2.5
    assert evaluation.mean_rating(train.remove_columns("rating"), (0, 10)) == 5


def test_every_task_is_evaluated(built, split, caplog):
    model, processor = built
    results = evaluation.evaluate(model, processor, split.test.select(range(6)), split.train, list(TASKS))
    assert set(results) == set(TASKS)
    for systems in results.values():
        assert set(systems) > {"model"}
        assert all(np.isfinite(value) for values in systems.values() for value in values.values())
    assert not model.training
    assert {"bleu", "rmse"} <= set(results["explain"]["model"])


def test_a_task_that_nobody_can_be_asked_is_left_out(built, split, caplog):
    person = split.test.select([0]).remove_columns(["query", "rating"])
    with caplog.at_level("INFO"):
        results = evaluation.evaluate(*built, person, split.train, list(TASKS))
    assert set(results) == {"recommend", "select"}
    assert "Nobody's last event has an answer to search" in caplog.text


def test_evaluation_asks_without_the_answer(samples, processor):
    for task in TASKS:
        for sample in samples(task):
            request = evaluation._without_answer(sample)
            assert "answer" not in request
            assert isinstance(request.get("item", ""), str)
    assert torch.is_tensor(processor([request], task="select")["input_ids"])
