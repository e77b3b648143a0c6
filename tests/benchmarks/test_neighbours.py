"""Counted and solved recommenders against tables worked out by hand."""

import numpy as np
import pytest
from baselines.neighbours import EASE, ContentKNN, ItemKNN, Popularity


def test_popularity_counts_training_events(make_data, make_events):
    ranker = Popularity()
    ranker.fit(make_data([[0, 1, 1], [1]], 3))
    np.testing.assert_array_equal(ranker.score(make_events([[2], []])), [[1, 3, 0], [1, 3, 0]])


# Three people have items 0 and 1, one of them item 2 besides, one more has item 2 alone.
PEOPLE = [[0, 1], [0, 1], [0, 1, 2], [2]]


def test_item_knn_is_the_cosine(make_data, make_events):
    ranker = ItemKNN(neighbours=2, shrink=0.0)
    ranker.fit(make_data(PEOPLE, 4))
    third = 1 / np.sqrt(6)  # one of the three and two people in common
    scores = ranker.score(make_events([[0], [2], [0, 2], [3]]))
    expected = [[0, 1, third, 0], [third, third, 0, 0], [third, 1 + third, third, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_item_knn_shrinks_and_keeps_the_nearest(make_data, make_events):
    ranker = ItemKNN(neighbours=1, shrink=1.0)
    ranker.fit(make_data(PEOPLE, 3))
    np.testing.assert_allclose(ranker.score(make_events([[0]])), [[0, 3 / 4, 0]], rtol=1e-6)


def test_item_knn_forgets(make_data, make_events):
    ranker = ItemKNN(neighbours=2, shrink=0.0, decay=0.5)
    ranker.fit(make_data(PEOPLE, 3))
    third = 1 / np.sqrt(6)
    scores = ranker.score(make_events([[0, 2], [2, 0]]))
    np.testing.assert_allclose(scores, [[third, 0.5 + third, third / 2], [third / 2, 1 + third / 2, third]], rtol=1e-6)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_ease_is_the_closed_form(make_data, make_events, decay):
    ranker = EASE(ridge=2.0, decay=decay)
    ranker.fit(make_data(PEOPLE, 3))
    # X'X + 2 I has the inverse below; B = I - P diag(1 / P).
    inverse = np.linalg.inv([[5, 3, 1], [3, 5, 1], [1, 1, 4]])
    weights = np.eye(3) - inverse / np.diag(inverse)
    scores = ranker.score(make_events([[0], [2, 0]]))
    np.testing.assert_allclose(scores, [weights[0], decay * weights[2] + weights[0]], atol=1e-6)


def test_ease_minimises_what_it_says(make_data):
    """No other weight of a column does better: (X'X + ridge) B is 0 off the diagonal's own condition."""
    ranker = EASE(ridge=2.0)
    ranker.fit(make_data(PEOPLE, 3))
    gram = np.array([[3.0, 3, 1], [3, 3, 1], [1, 1, 2]])
    slope = (gram + 2 * np.eye(3)) @ ranker.weights - gram
    np.testing.assert_allclose(slope - np.diag(np.diag(slope)), 0, atol=1e-5)


def test_ease_knows_no_new_item(make_data, make_events):
    ranker = EASE(ridge=2.0)
    ranker.fit(make_data(PEOPLE, 4))
    scores = ranker.score(make_events([[0, 2], [3]]))
    np.testing.assert_allclose(scores[:, 3], 0, atol=1e-7)
    np.testing.assert_allclose(scores[1], 0, atol=1e-7)


def test_content_knn_by_hand(make_data, make_events):
    text = np.array([[2.0, 0], [0, 3], [3, 4], [0, 0]])
    ranker = ContentKNN(("text",), decay=0.5)
    ranker.fit(make_data([[0]], 4, {"text": text}))
    # The history 0, 1 is (0.5 (1, 0) + (0, 1)) / 1.5.
    np.testing.assert_allclose(
        ranker.score(make_events([[0, 1], [2], []])),
        [[1 / 3, 2 / 3, 0.2 + 1.6 / 3, 0], [0.6, 0.8, 1, 0], [0, 0, 0, 0]],
        atol=1e-6,
    )


def test_content_knn_of_both_kinds_adds_up(make_data, make_events):
    features = {"text": np.array([[1.0, 0], [1, 0], [0, 1]]), "picture": np.array([[1.0], [-1], [1]])}
    ranker = ContentKNN(("text", "picture"))
    ranker.fit(make_data([[0]], 3, features))
    np.testing.assert_allclose(ranker.score(make_events([[0]])), [[2, 0, 1]], atol=1e-6)


@pytest.mark.parametrize(("whitening", "across"), [(0.0, 0.28), (0.5, 1 / 7), (1.0, 0.0)])
def test_content_knn_whitens_by_hand(make_data, make_events, whitening, across):
    """Four corners of a rectangle, 1.6 wide and 1.2 high: half of it makes that sqrt(1.6) and sqrt(1.2), all a square.
    An item of which nothing is known stays so."""
    corners = np.array([[0.8, 0.6], [0.8, -0.6], [-0.8, 0.6], [-0.8, -0.6], [0, 0]])
    ranker = ContentKNN(("text",), whitening=whitening)
    ranker.fit(make_data([[0]], 5, {"text": corners}))
    np.testing.assert_allclose(ranker.score(make_events([[0]])), [[1, across, -across, -1, 0]], atol=1e-6)


def test_content_knn_whitens_each_kind_by_itself(make_data, make_events):
    """The square beside pictures of two kinds; and beside none."""
    corners = np.array([[0.8, 0.6], [0.8, -0.6], [-0.8, 0.6], [-0.8, -0.6]])
    ranker = ContentKNN(("text", "picture"), whitening=1.0)
    ranker.fit(make_data([[0]], 4, {"text": corners, "picture": np.array([[1.0], [1], [-1], [-1]])}))
    np.testing.assert_allclose(ranker.score(make_events([[0]])), [[2, 1, -1, -2]], atol=1e-6)
    ranker.fit(make_data([[0]], 4, {"text": corners, "picture": np.zeros((4, 1))}))
    np.testing.assert_allclose(ranker.score(make_events([[0]])), [[1, 0, 0, -1]], atol=1e-6)
