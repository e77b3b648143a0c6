"""Every figure against arithmetic that can be followed in the comments."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_reciprocal_rank

from unimp.training.metrics import (
    Measured,
    bootstrap_interval,
    chance_values,
    difference,
    figures,
    paired_ratio_interval,
    ranking_values,
    rating_metrics,
    ratio,
    root_of_mean,
    selection_values,
    target_ranks,
)

INF, NAN = float("inf"), float("nan")


def means(values):
    return {name: own.mean() for name, own in values.items()}


# scores of four items, target, rank
RANKS = {
    "best": ([0.9, 0.1, 0.2, 0.3], 0, 1),
    "third": ([0.9, 0.1, 0.2, 0.3], 2, 3),
    "last": ([0.9, 0.1, 0.2, 0.3], 1, 4),
    "tied for first and second": ([0.9, 0.9, 0.2, 0.3], 1, 1.5),
    "tied for second, third and fourth": ([0.9, 0.1, 0.1, 0.1], 3, 3),
    "all alike": ([0.5, 0.5, 0.5, 0.5], 0, 2.5),
    "others excluded": ([-INF, 0.1, -INF, 0.3], 1, 2),
    "target excluded": ([-INF, 0.1, -INF, 0.3], 0, INF),
    "sure": ([INF, 0.1, 0.2, 0.3], 0, 1),
}


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_ranks(name, kind):
    scores, target, rank = RANKS[name]
    assert target_ranks(kind([scores]), kind([target])).tolist() == [rank]


def test_ranks_of_a_batch():
    scores, targets, ranks = zip(*RANKS.values(), strict=True)
    assert target_ranks(torch.tensor(scores), torch.tensor(targets)).tolist() == list(ranks)
    assert target_ranks(torch.tensor(scores, dtype=torch.bfloat16), torch.tensor(targets)).tolist() == list(ranks)


def test_ranking_values():
    # Four users, the third without a hit in the first five.
    #   rank     hr@1  hr@5  ndcg@5               mrr@5
    #   1        1     1     1 / log2(2) = 1      1
    #   3        0     1     1 / log2(4) = 0.5    1 / 3
    #   7        0     0     0                    0
    #   1.5      0     1     1 / log2(2.5)        1 / 1.5
    metrics = means(ranking_values([1, 3, 7, 1.5], cutoffs=(1, 5)))
    expected = {"hr@1": 1 / 4, "ndcg@1": 1 / 4, "mrr@1": 1 / 4, "hr@5": 3 / 4}
    expected |= {"ndcg@5": (1 + 0.5 + 1 / math.log2(2.5)) / 4, "mrr@5": (1 + 1 / 3 + 2 / 3) / 4}
    assert metrics == pytest.approx(expected)
    assert list(metrics) == ["hr@1", "ndcg@1", "mrr@1", "hr@5", "ndcg@5", "mrr@5"]


def test_users_with_no_hit_give_zeros():
    assert set(means(ranking_values([21, 500, INF])).values()) == {0.0}
    assert len(ranking_values([21])) == 15


def test_values_are_one_a_user():
    values = ranking_values([2, 4], cutoffs=(3,))
    assert values["hr@3"].tolist() == [1, 0]
    assert values["ndcg@3"].tolist() == pytest.approx([1 / math.log2(3), 0])
    assert values["mrr@3"].tolist() == [0.5, 0]


def test_ranking_values_agree_with_torchmetrics():
    scores = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20)
    relevant = torch.nn.functional.one_hot(targets, 30).bool()
    metrics = means(ranking_values(target_ranks(scores, targets), cutoffs=(10,)))
    pairs = list(zip(scores, relevant, strict=True))
    ndcg = torch.stack([retrieval_normalized_dcg(s, r, top_k=10) for s, r in pairs]).mean()
    mrr = torch.stack([retrieval_reciprocal_rank(s, r, top_k=10) for s, r in pairs]).mean()
    assert metrics["ndcg@10"] == pytest.approx(ndcg.item(), abs=1e-6)
    assert metrics["mrr@10"] == pytest.approx(mrr.item(), abs=1e-6)


def test_bootstrap_interval():
    # 100 of 400 hit: the mean's standard error is sqrt(0.25 * 0.75 / 400) = 0.0217, 1.96 of them are 0.0424.
    values = [1.0] * 100 + [0.0] * 300
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(0.25 - 0.0424, abs=0.006)
    assert high == pytest.approx(0.25 + 0.0424, abs=0.006)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)


def test_bootstrap_interval_narrows_with_the_level_and_takes_any_statistic():
    values = np.arange(100.0)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide[0] < narrow[0] < 49.5 < narrow[1] < wide[1]
    assert bootstrap_interval(values, statistic=np.max)[1] == 99
    assert bootstrap_interval([3.0]) == (3.0, 3.0)


def test_paired_ratio_interval():
    b = np.random.default_rng(0).random(200)
    # Twice as much for every single user: the ratio is 2 whoever is drawn.
    assert paired_ratio_interval(2 * b, b) == pytest.approx((2, 2))
    low, high = paired_ratio_interval(b, b[::-1])
    assert low < 1 < high


def test_a_ratio_without_an_upper_end():
    # One hit in ten: about a third of the draws have none, (9/10)^10 = 0.35.
    hits = [1.0] + [0.0] * 9
    assert paired_ratio_interval([1.0] * 10, hits)[1] == INF


def test_chance_is_the_mean_over_all_ranks():
    # Of 4 items each rank is equally likely, of 2 the ranks 3 and 4 do not exist, and 0 is never a hit.
    values = chance_values(np.array([4, 2, 0]), cutoffs=(1, 3))
    assert values["hr@1"].tolist() == [1 / 4, 1 / 2, 0]
    assert values["hr@3"].tolist() == [3 / 4, 1, 0]
    assert values["mrr@3"].tolist() == pytest.approx([(1 + 1 / 2 + 1 / 3) / 4, (1 + 1 / 2) / 2, 0])
    assert values["ndcg@3"][1] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    every_rank = means(ranking_values(np.arange(1, 301)))
    assert {name: own[0] for name, own in chance_values(np.array([300])).items()} == pytest.approx(every_rank)


def test_a_user_of_several_rows_counts_once():
    # Ann has rows 1, 0, 1, 0 with mean 1/2, Bob a 1: the mean over users is 3/4, over rows it would be 3/5.
    users = ["ann", "bob", "ann", "ann", "ann"]
    found = figures({"hr": Measured(np.array([1.0, 1, 0, 1, 0]))}, users)["hr"]
    # Two users drawn: twice Ann, 1/2, or twice Bob, 1.
    assert found == {"value": 0.75, "low": 0.5, "high": 1.0}


def test_intervals_are_over_users_not_rows():
    hits = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 20).astype(float)
    clustered = figures({"hr": Measured(hits)}, np.repeat(np.arange(50), 20))["hr"]
    single = figures({"hr": Measured(hits[::20])}, np.arange(50))["hr"]
    assert clustered == pytest.approx(single)
    assert (single["low"], single["high"]) == pytest.approx(bootstrap_interval(hits[::20]))


def test_many_resamples_do_not_change_with_how_many_fit_into_memory(monkeypatch):
    measured = {"hr": Measured(np.arange(30.0))}
    whole = figures(measured, range(30))
    monkeypatch.setattr("unimp.training.metrics._MOST_NUMBERS", 100)
    assert figures(measured, range(30))["hr"] == pytest.approx(whole["hr"])


def test_figures_that_are_no_mean():
    # Ann's squares 1 and 4 have mean 2.5, Bob's is 9: the root of their mean.
    measured = {"rmse": root_of_mean(np.array([1.0, 4, 9])), "mae": Measured(np.array([1.0, 2, 3]))}
    found = figures(measured, ["ann", "ann", "bob"])
    assert found["rmse"]["value"] == pytest.approx(math.sqrt(11.5 / 2))
    assert found["rmse"]["low"] == pytest.approx(math.sqrt(2.5))
    assert found["rmse"]["high"] == pytest.approx(3)
    assert found["mae"]["value"] == pytest.approx((1.5 + 3) / 2)


def test_two_systems_compared_in_pairs():
    a, b = Measured(np.array([1.0, 0, 1, 0])), root_of_mean(np.array([1.0, 0, 1, 0]) / 4)
    users = range(4)
    found = figures({"difference": difference(a, b), "ratio": ratio(a, b)}, users)
    # Means 1/2, and the root of 1/8.
    assert found["difference"]["value"] == pytest.approx(1 / 2 - math.sqrt(1 / 8))
    assert found["ratio"]["value"] == pytest.approx(1 / 2 / math.sqrt(1 / 8))
    twice = Measured(2 * a.rows)
    # None of four users drawn has a hit once in 16 times: 0 / 0 says nothing, so there is no upper end.
    assert figures({"ratio": ratio(twice, a)}, users)["ratio"]["value"] == 2
    assert figures({"difference": difference(twice, a)}, users)["difference"]["value"] == 0.5
    assert figures({"ratio": ratio(a, Measured(np.zeros(4)))}, users)["ratio"] == dict.fromkeys(
        ["value", "low", "high"]
    )


def test_rating_metrics():
    # Errors 1, -2, 0: squares 1, 4, 0.
    metrics = rating_metrics([4, 1, 3], [3, 3, 3])
    assert metrics == pytest.approx({"rmse": math.sqrt(5 / 3), "mae": 1.0})


def test_selection_values():
    # chosen  true   both  precision  recall  f1
    # a b     a c d  1     1/2        1/3     2/5
    # a       a      1     1          1       1
    # b       c      0     0          0       0
    # none    a      0     0          0       0
    # none    none         1          1       1
    chosen = [{"a", "b"}, {"a"}, {"b"}, set(), set()]
    true = [{"a", "c", "d"}, {"a"}, {"c"}, {"a"}, set()]
    expected = {"precision": 2.5 / 5, "recall": (7 / 3) / 5, "f1": 2.4 / 5}
    assert means(selection_values(chosen, true)) == pytest.approx(expected)


WRONG = {
    "NaN scores": (target_ranks, ([[0.1, NAN], [0.1, 0.2]], [0, 1]), "`scores` has NaN in 1 rows"),
    "no users to rank": (target_ranks, (np.zeros((0, 3)), np.zeros(0)), "not empty"),
    "scores of one user": (target_ranks, ([0.1, 0.2], [0]), r"\(2,\) and \(1,\)"),
    "too few targets": (target_ranks, ([[0.1], [0.2]], [0]), r"\(2, 1\) and \(1,\)"),
    "target out of range": (target_ranks, ([[0.1, 0.2]], [2]), "columns 0 to 1, but got 2"),
    "negative target": (target_ranks, ([[0.1, 0.2]], [-1]), "columns 0 to 1, but got -1"),
    "no ranks": (ranking_values, ([],), "`ranks` is empty"),
    "rank zero": (ranking_values, ([0, 1],), "`ranks` must be 1 or more, but the least is 0"),
    "NaN rank": (ranking_values, ([NAN],), "`ranks` must be finite"),
    "no values": (bootstrap_interval, ([],), "`values` is empty"),
    "infinite values": (bootstrap_interval, ([1.0, INF],), "`values` must be finite"),
    "level": (bootstrap_interval, ([1.0], np.mean, 95), "`level` must be between 0 and 1, but got 95"),
    "rows without users": (figures, ({"a": Measured(np.ones(3))}, [1, 2]), "`users` .* each of 3 rows, but got 2"),
    "rows of different lengths": (difference, (Measured(np.ones(3)), Measured(np.ones(2))), "but got 3 and 2"),
    "unpaired": (paired_ratio_interval, ([1.0, 2.0], [1.0]), "`a` and `b`"),
    "no b": (paired_ratio_interval, ([1.0], [0.0]), "`b` must have a mean above 0"),
    "no ratings": (rating_metrics, ([], []), "`predictions` is empty"),
    "NaN rating": (rating_metrics, ([NAN], [1.0]), "`predictions` must be finite"),
    "unequal ratings": (rating_metrics, ([1.0, 2.0], [1.0]), "`predictions` must match `targets`"),
    "no requests": (selection_values, ([], []), "one set a request, but got 0 and 0"),
    "unequal requests": (selection_values, ([{1}], []), "but got 1 and 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_raises_with_the_reason(name):
    function, arguments, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        function(*arguments)
