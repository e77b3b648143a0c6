"""Ranks, figures of people, and the choice of settings."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from baselines.neighbours import Popularity
from baselines.ranking import rank, selection_figure, tune, user_values


@dataclass
class Fixed:
    """Scores all histories alike, and counts how often it was fitted."""

    SCORING_SETTINGS = ("scores",)
    scores: tuple[float, ...]
    other: int = 0
    fits = []

    def fit(self, data, validate=None, seed=0):
        Fixed.fits.append((self.other, seed))

    def score(self, histories):
        return np.tile(np.float32(self.scores), (len(histories), 1))


def test_the_history_is_left_out(make_events):
    rows = make_events([[0, 1, 3], [3, 2], [2, 2], [1]])
    # Left of 4, 3, 2, 1: item 3 third of 2, 3; item 2 third of 0, 1, 2; a target that was there before; item 1.
    assert rank(Fixed((4, 3, 2, 1)), rows).tolist() == [2, 3, np.inf, 2]
    assert rank(Fixed((4, 3, 2, 1)), rows, batch_size=1).tolist() == [2, 3, np.inf, 2]
    assert rank(Fixed((4, 3, 2, 1)), rows, np.array([True, False, True, True])).tolist() == [2, 2, np.inf, np.inf]


def test_a_person_counts_once():
    ranks = np.array([[1.0, 20, 3], [1.0, 1, 3]])
    values = user_values(ranks, ["b", "b", "a"])
    np.testing.assert_allclose(values["hr@10"], [1, 0.75])  # a, then b
    np.testing.assert_allclose(values["ndcg@10"], [0.5, 0.75])
    np.testing.assert_allclose(values["mrr@10"], [1 / 3, 0.75])


def test_the_figure_of_selection(make_events):
    ranker = Fixed((4, 3, 2, 1))
    assert selection_figure(ranker, make_events([[0, 1], [1, 2]])) == pytest.approx((2 + 1 / np.log2(3) + 1 / 2) / 2)
    # Two rows of one person, then of two people that training does not know.
    uneven = [[0, 1], [0, 1], [3, 2]]
    one, half = 2.0, 1 / np.log2(4) + 1 / 3
    assert selection_figure(ranker, make_events(uneven, users=[0, 0, 1])) == pytest.approx((one + half) / 2)
    assert selection_figure(ranker, make_events(uneven, users=[-1, -1, -1])) == pytest.approx((2 * one + half) / 3)


def test_tuning_takes_the_best_and_logs_all(cycle):
    Fixed.fits.clear()
    low, high = tuple(range(9)), tuple(np.bincount(cycle.validation.items[cycle.validation.last], minlength=9))
    grid = [{"scores": low}, {"scores": high}, {"scores": high, "other": 1}, {"scores": low, "other": 1}]
    tuned = tune(Fixed, grid, cycle, seed=7)
    assert tuned.settings == grid[1]
    assert tuned.ranker == Fixed(high)
    assert [trial["settings"] for trial in tuned.trials] == grid
    assert tuned.trials[1]["figure"] == selection_figure(Fixed(high), cycle.validation) > tuned.trials[0]["figure"]
    assert Fixed.fits == [(0, 7), (1, 7)]  # settings of the scoring alone are not fitted again


def test_tuning_does_not_read_test(cycle, make_events):
    low, high = tuple(range(9)), tuple(np.bincount(cycle.validation.items[cycle.validation.last], minlength=9))
    grid = [{"scores": low}, {"scores": high}]
    # With this test part the other settings are the better ones.
    garbage = replace(cycle, test=make_events([[7, 8]] * 60))
    assert selection_figure(Fixed(low), garbage.test) > selection_figure(Fixed(high), garbage.test)
    for split in (cycle, garbage):
        assert tune(Fixed, grid, split).settings == grid[1]


def test_nothing_to_try(cycle):
    with pytest.raises(ValueError, match="`grid` is empty"):
        tune(Popularity, [], cycle)
