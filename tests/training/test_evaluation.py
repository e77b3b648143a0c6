"""Figures on held-out people, beside plain loops and hand-made tables."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from unimp.processing import TASKS
from unimp.processing.pipelines_unimp import UniMPExplainPipeline, UniMPRatePipeline, UniMPSelectPipeline
from unimp.processing.splits import leave_last_n
from unimp.training import evaluation
from unimp.training.held_out import answer_in_batches, held_out_samples, without_answer
from unimp.training.mixture import MixtureSettings

INF = float("inf")


@pytest.fixture
def samples(split, processor):
    return lambda task: held_out_samples(split.test, task, processor.catalog.item_ids)


@pytest.mark.parametrize("task", ["recommend", "search"])
def test_ranks_are_those_of_a_plain_loop(built, samples, task):
    model, processor = built
    asked = samples(task)[:9]
    ranks = evaluation.evaluate_ranking(model.train(), processor, asked, task, batch_size=4)
    expected = []
    for sample in asked:
        request = without_answer(sample)
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
    assert results["search"]["random"]["hr@10"] == pytest.approx(10 / 40)
    assert 0.2 < results["select"]["random"]["precision"] < 0.7


def test_a_split_is_named_with_what_it_tests():
    assert evaluation.describe_split("leave_one_out") == "leave_one_out: each person's last event"
    assert evaluation.describe_split("leave_last_10") == (
        "leave_last_10: each person's last events, each from all before it"
    )
    assert evaluation.describe_split("new_domain:a=b") == "new_domain:a=b: people and items never trained on"
    assert evaluation.describe_split("user_holdout") == "user_holdout: people never trained on"
    assert evaluation.describe_split("mine") == "mine"


def test_of_figures_with_a_cutoff_those_at_ten_come_first():
    assert evaluation.headline({"hr@1": 1, "hr@10": 2, "ndcg@10": 3, "rmse": 4, "gini@10": 5}) == {
        "hr@10": 2,
        "ndcg@10": 3,
        "rmse": 4,
    }


def answers_of(monkeypatch, pipeline_class, answers):
    """Pretend that a model answers so, a batch at a time; returns the requests it is asked."""
    asked, left = [], list(answers)

    def codes(self, request):
        asked.append(request)
        return []

    monkeypatch.setattr(pipeline_class, "_codes", codes)
    monkeypatch.setattr(pipeline_class, "forward", lambda self, inputs: [left.pop(0) for _ in inputs["codes"]])
    monkeypatch.setattr(pipeline_class, "postprocess", lambda self, outputs: outputs)
    return asked


def rated(processor, *ratings):
    ids = processor.catalog.item_ids
    return [
        {"history": [], "item": {"item_id": item_id, "rating": rating, "explanation": "such a nice red hat"}}
        for item_id, rating in zip(ids, ratings, strict=False)
    ]


def means(measured):
    """Figures of people of one row each."""
    return {name: float(figure(figure.parts.mean(0))) for name, figure in measured.items()}


def test_ratings_are_compared(built, monkeypatch):
    asked = answers_of(monkeypatch, UniMPRatePipeline, [{"rating": 4.0}, {"rating": 2.5}])
    measured, whole = evaluation.evaluate_ratings(*built, rated(built[1], 5.0, 3.0), fallback=3.0, batch_size=1)
    assert means(measured) == pytest.approx({"rmse": (1.25 / 2) ** 0.5, "mae": 0.75})
    assert whole == {}
    assert asked[0] == {"history": [], "item": built[1].catalog.item_ids[0]}  # nothing of the answer


def test_an_unreadable_rating_counts_as_the_fallback(built, monkeypatch):
    answers = [{"rating": rating, "explanation": None} for rating in (4.0, None, 1.0, None)]
    asked = answers_of(monkeypatch, UniMPExplainPipeline, answers)
    samples = rated(built[1], 5.0, 3.0, 1.0, 1.0)
    measured, whole = evaluation.evaluate_ratings(*built, samples, fallback=3.0, task="explain")
    # Errors: 1, 3 - 3 = 0, 0, 3 - 1 = 2.
    expected = {"rmse": (5 / 4) ** 0.5, "mae": 3 / 4, "without_rating": 0.5}
    assert means(measured) == pytest.approx(
        expected | dict.fromkeys(["bleu", "rouge1", "rouge2", "rougeL", "meteor"], 0)
    )
    assert whole == {}  # no word was said
    assert asked[0] == {"history": [], "item": built[1].catalog.item_ids[0]}  # nothing of the answer


def test_explanations_are_compared(built, monkeypatch):
    said = [{"rating": 5.0, "explanation": "such a nice red hat"}, {"rating": 3.0, "explanation": None}]
    answers_of(monkeypatch, UniMPExplainPipeline, said)
    measured, whole = evaluation.evaluate_ratings(*built, rated(built[1], 5.0, 3.0), fallback=3.0, task="explain")
    figures = means(measured)
    # All that was said is right, but half of what should have been said was not: exp(1 - 10 / 5).
    assert figures["bleu"] == pytest.approx(np.exp(-1))
    assert figures["rouge1"] == figures["rougeL"] == 0.5
    assert figures["rmse"] == figures["without_rating"] == 0
    assert whole == {"distinct1": 1, "distinct2": 1}


def test_selections(built, monkeypatch):
    ids = built[1].catalog.item_ids[:3]
    samples = [
        {"history": [], "candidates": ids, "answer": ids[:2]},
        {"history": [], "candidates": ids, "answer": ids[2:]},
    ]
    answers_of(monkeypatch, UniMPSelectPipeline, [[{"item_id": ids[0]}], [{"item_id": ids[0]}, {"item_id": ids[2]}]])
    # Precision 1 and 1/2, recall 1/2 and 1, F1 twice 2/3.
    measured = evaluation.evaluate_selection(*built, samples)
    assert means(measured) == pytest.approx({"precision": 0.75, "recall": 0.75, "f1": 2 / 3})


def test_the_model_stays_where_it_is(built, samples, monkeypatch):
    """Although there is an accelerator, to which pipelines move a model by themselves."""
    monkeypatch.setattr("transformers.pipelines.base.is_torch_cuda_available", lambda: True)
    evaluation.evaluate_ratings(*built, samples("rate")[:1], fallback=3.0)
    evaluation.evaluate_selection(*built, samples("select")[:1])
    assert built[0].device.type == "cpu"


def test_a_selection_by_chance():
    samples = [
        {"candidates": ["a", "b", "c"], "answer": ["a", "b"]},
        {"candidates": ["a", "b", "c"], "answer": ["c"]},
    ]
    # Right 2 and 1 times of 3; then half of what is true is found, F1 2/3, and all of it, F1 1.
    measured = evaluation.chance_selection(samples)
    assert measured["precision"].rows.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert measured["recall"].rows.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert measured["f1"].rows.tolist() == pytest.approx([4 / 9, 1 / 3])


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
            request = without_answer(sample)
            assert set(request) <= {"history", "instruction", "query", "item", "candidates"}
            assert isinstance(request.get("item", ""), str)
    assert torch.is_tensor(processor([request], task="select")["input_ids"])


@pytest.mark.parametrize("task", ["recommend", "search", "rate", "select", "explain"])
def test_a_model_of_another_catalogue_is_refused(built, split, monkeypatch, task):
    monkeypatch.setattr(built[0].config, "catalog_fingerprint", "another")
    with pytest.raises(ValueError, match="`model` was made for another catalogue"):
        evaluation.evaluate(*built, split.test, split.train, [task])


# What is ranked


def test_items_of_the_whole_history_are_left_out(built, split):
    """Also of what is too long ago to be shown to the model."""
    model, processor = built
    settings = MixtureSettings(history_window=1)
    asked = held_out_samples(split.test, "recommend", processor.catalog.item_ids, settings=settings)
    assert all(len(sample["history"]) == 1 for sample in asked)
    scorers = {"model": evaluation.model_scorer(model, processor, "recommend")}
    ranking = evaluation.rank_answers(scorers, asked, "recommend", processor.catalog)["model"]
    for row, (person, listed) in enumerate(zip(split.test, ranking.lists, strict=True)):
        seen = set(person["item_id"][:-1])
        assert len(seen) > 1
        assert not seen.intersection(processor.catalog.item_ids[code] for code in listed if code >= 0)
        assert ranking.num_items[row] == (0 if person["item_id"][-1] in seen else 40 - len(seen))
        assert np.isinf(ranking.ranks[row]) == (person["item_id"][-1] in seen)


def test_items_of_other_data_sets_are_not_ranked(processor):
    ids = processor.catalog.item_ids
    asked = [{"history": [{"item_id": ids[0]}], "answer": ids[3]}]
    score = {"descending": lambda samples: -torch.arange(40.0).repeat(len(samples), 1)}
    for task, rank, among in (("recommend", 2, 3), ("search", 3, 4)):
        ranking = evaluation.rank_answers(score, asked, task, processor.catalog, [ids[9], ids[3], ids[2], ids[0]])
        assert ranking["descending"].ranks.tolist() == [rank]
        assert ranking["descending"].num_items.tolist() == [among]
    assert ranking["descending"].lists.tolist() == [[0, 2, 3, 9] + [-1] * 6]


def test_candidates_are_the_answer_and_others_that_the_person_has_not_seen(split, processor):
    ids = processor.catalog.item_ids
    asked = held_out_samples(split.test, "recommend", ids)
    for person, sample in zip(split.test, asked, strict=True):
        others = sample["aside"]["others"]
        assert len(set(others)) == len(others) == 40 - len(set(person["item_id"]))  # of a catalogue of 40
        assert not set(others).intersection(person["item_id"])
    turned_round = held_out_samples(split.test, "recommend", ids[::-1])
    assert [sample["aside"] for sample in asked] == [sample["aside"] for sample in turned_round]
    again = held_out_samples(split.test, "recommend", ids, seed=1)
    assert [sample["aside"] for sample in asked] != [sample["aside"] for sample in again]


def test_ranks_among_candidates(processor):
    ids = processor.catalog.item_ids
    aside = {"seen": [ids[1]], "others": [ids[5], ids[0], ids[30]]}
    asked = [
        {"history": [], "answer": ids[4], "aside": aside},
        {"history": [], "answer": ids[1], "aside": {"seen": [ids[1]], "others": [ids[2]]}},
    ]
    score = {"descending": lambda samples: -torch.arange(40.0).repeat(len(samples), 1)}
    ranking = evaluation.rank_answers(score, asked, "recommend", processor.catalog)["descending"]
    assert ranking.ranks.tolist() == [4, INF]  # of items 0 to 4 without 1
    assert ranking.candidate_ranks.tolist() == [2, INF]
    assert ranking.num_candidates.tolist() == [4, 0]


def test_there_are_at_most_a_hundred_candidates():
    rows = Dataset.from_dict({"user_id": ["u"], "item_id": [["i1", "i2", "i3"]], "timestamp": [[1, 2, 3]]})
    [sample] = held_out_samples(rows, "recommend", [f"i{n}" for n in range(500)])
    assert len(sample["aside"]["others"]) == 99


def test_every_held_out_event_of_a_person_is_asked_about(store):
    rows = leave_last_n(store.interactions, 3).test
    asked = held_out_samples(rows, "recommend", store.items["item_id"][:])
    assert len(asked) == len(rows) > len(set(asked.users))
    assert asked.items.tolist() == [row["item_id"][-1] for row in rows]
    assert asked.lengths.tolist() == [len(row["item_id"]) - 1 for row in rows]
    drawn = {}
    for sample, user in zip(asked, asked.users, strict=True):
        drawn.setdefault(user, []).append(tuple(sample["aside"]["others"]))
    assert all(len(set(others)) == len(others) for others in drawn.values())


def test_answers_come_in_the_order_of_the_samples_the_longest_first():
    samples = [{"history": [0] * length} for length in (2, 5, 1, 4, 3)]
    batches = []

    def answer(batch):
        batches.append([len(sample["history"]) for sample in batch])
        return batches[-1]

    assert answer_in_batches(samples, answer, 2, "Testing") == [2, 5, 1, 4, 3]
    assert batches == [[5, 4], [3, 2], [1]]


def test_people_of_several_rows_count_once(built, store):
    split = leave_last_n(store.interactions, 3)
    test = split.test.select(range(8))
    [result] = evaluation.evaluate_tasks(*built, test, split.train, ["recommend"]).values()
    hits = {}
    for user, rank in zip(result.samples.users, result.ranks["model"], strict=True):
        hits.setdefault(user, []).append(float(rank <= 20))
    expected = np.mean([np.mean(own) for own in hits.values()])
    assert result.values()["model"]["hr@20"] == pytest.approx(expected)
    assert evaluation.evaluate(*built, test, split.train, ["recommend"])["recommend"] == result.values()


def test_what_is_random_is_what_is_expected_of_all_orders(built, split):
    results = evaluation.evaluate(*built, split.test, split.train, ["search"])["search"]["random"]
    assert results["hr@10"] == pytest.approx(10 / 40)
    assert results["mrr@3"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 40)
    among = [41 - len(set(row["item_id"])) for row in split.test]  # the answer and all that the person has not seen
    assert results["hr@10_of_100"] == pytest.approx(np.mean([10 / count for count in among]))


def test_what_words_alone_find_stands_beside_the_model(built, split, samples):
    _, processor = built
    results = evaluation.evaluate_tasks(*built, split.test, split.train, ["recommend", "search"])
    for task in ("recommend", "search"):
        assert set(results[task].measured) == {"model", "popularity", "words", "random"}
    expected = []
    for sample in samples("search"):
        matches = processor.query_matches(sample["query"])
        own = matches[processor.catalog.position(sample["answer"])]
        assert own > 0
        expected.append(1 + (matches > own).sum().item() + ((matches == own).sum().item() - 1) / 2)
    assert results["search"].ranks["words"].tolist() == expected
    first = samples("recommend")[0]
    alike = processor.word_similarities(first["history"])
    alike[[processor.catalog.position(event["item_id"]) for event in first["history"]]] = -torch.inf
    own = alike[processor.catalog.position(first["answer"])]
    rank = 1 + (alike > own).sum().item() + ((alike == own).sum().item() - 1) / 2
    assert results["recommend"].ranks["words"][0] == (rank if own > -torch.inf else np.inf)


def test_popularity_counts_training_events(split, processor):
    counts = evaluation.train_counts(split.train, processor.catalog.item_ids)
    items = [item for row in split.train for item in row["item_id"]]
    assert counts.tolist() == [items.count(item_id) for item_id in processor.catalog.item_ids]


def test_no_samples_are_refused(built):
    with pytest.raises(ValueError, match="`samples` is empty"):
        evaluation.evaluate_ranking(*built, [], "recommend")
