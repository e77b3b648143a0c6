"""What lists are like, on lists of two or three items."""

import math

import numpy as np
import pytest

from unimp.training.list_metrics import (
    POPULARITY_GROUPS,
    coverage,
    gini,
    intra_list_diversity,
    novelty,
    popularity_groups,
    word_vectors,
)

LISTS = np.array([[0, 1], [0, 2], [0, -1]])


def test_coverage():
    assert coverage(LISTS, num_items=4) == 3 / 4


def test_gini():
    # Item 0 three times, 1 and 2 once, 3 never. In ascending order 0 1 1 3 with n = 4:
    #   ((2 - 5) * 0 + (4 - 5) * 1 + (6 - 5) * 1 + (8 - 5) * 3) / (4 * 5) = 9 / 20
    assert gini(LISTS, num_items=4) == pytest.approx(9 / 20)
    assert gini(np.array([[0, 1], [2, 3]]), num_items=4) == 0
    assert gini(np.array([[2], [2]]), num_items=4) == pytest.approx(3 / 4)


def test_novelty():
    # Chosen 3, 1, 0 and 0 times, so counted 4, 2, 1, 1 of 8: 1, 2, 3 and 3 bits.
    assert novelty(LISTS, np.array([3, 1, 0, 0])).tolist() == [1.5, 2, 1]


def test_intra_list_diversity():
    vectors = np.array([[1.0, 0], [0, 2], [3, 3], [0, 0]])
    lists = np.array([[0, 1, -1], [0, 2, -1], [0, 1, 2], [0, 3, -1], [0, -1, -1]])
    # Cosines: 0 and 1 have 0, either with 2 has 1 / sqrt(2); nothing is known of 3.
    angle = 1 / math.sqrt(2)
    assert intra_list_diversity(lists, vectors) == pytest.approx([1, 1 - angle, 1 - 2 * angle / 3, 1, 0])


def test_word_vectors():
    vectors = word_vectors(["title: red hat", "title: red", "title: blue"])
    assert sorted(map(tuple, vectors.T.tolist())) == [(0, 0, 1), (1, 0, 0), (1, 1, 0)]  # blue, hat, red
    assert word_vectors(["", ""]) is None
    assert word_vectors(["hat", "hat"]) is None


def test_only_the_most_frequent_words_count(monkeypatch):
    monkeypatch.setattr("unimp.training.list_metrics.MAX_WORDS", 1)
    assert word_vectors(["red hat", "red", "blue"]).tolist() == [[1], [1], [0]]


def test_popularity_groups():
    # Of 12 events: item 2 has the first 5, item 0 the next 4 (its first is the 6th), then 1, 4 and 5 (10th to 12th).
    groups = popularity_groups(np.array([4, 1, 5, 0, 1, 1]))
    assert [POPULARITY_GROUPS[group] for group in groups] == ["mid", "tail", "head", "never", "tail", "tail"]
    assert popularity_groups(np.zeros(2, dtype=int)).tolist() == [3, 3]
