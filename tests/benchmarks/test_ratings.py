"""Rating predictors against structure that is put in."""

import numpy as np
import pytest
from baselines.ratings import SVD, Bias, GlobalMean, predictions, rated, rating_figure


def test_the_mean_of_what_is_rated(make_data, make_events):
    predictor = GlobalMean()
    predictor.fit(make_data([[0, 1], [1]], 2, ratings=[1, np.nan, 4]))
    rows = make_events([[0, 1], [1], [0]], ratings=[5, 3.5, 1, np.nan])
    assert rated(rows).tolist() == [True, True, False]
    assert predictions(predictor, rows).tolist() == [2.5, 2.5, 2.5]
    assert rating_figure(predictor, rows) == pytest.approx(-np.sqrt((1 + 1.5**2) / 2))


def test_biases_without_shrinking_are_exact(make_data, make_events):
    """Everybody rates 3 plus what the item and what the person adds."""
    item, person = np.array([-1.0, 0, 1]), np.array([0.5, -0.5])
    ratings = (3 + item + person[:, None]).ravel()
    predictor = Bias(item_ridge=0.0, user_ridge=0.0)
    predictor.fit(make_data([[0, 1, 2], [0, 1, 2]], 3, ratings=ratings))
    requests = make_events([[0, 2], [1, 2]], ratings=[2.5, np.nan, 2.5, np.nan])
    np.testing.assert_allclose(predictions(predictor, requests), [4.5, 3.5], atol=1e-9)


def test_biases_shrink(make_data, make_events):
    predictor = Bias(item_ridge=1.0, user_ridge=1.0, rounds=1)
    predictor.fit(make_data([[0], [1]], 3, ratings=[5, 1]))
    # Mean 3; items 2 / 2 and -2 / 2 away. In the request, a 5 for item 0 leaves 1, halved.
    requests = make_events([[0, 1], [2]], users=[-1, -1], ratings=[5, np.nan, np.nan])
    np.testing.assert_allclose(predictions(predictor, requests), [3 - 1 + 0.5, 3])


def test_svd_learns_who_likes_what(make_data, make_events):
    """Two kinds of people and of items: no bias tells them apart, a product does."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(12)[:9].tolist() for _ in range(60)]
    ratings = [5.0 if (person % 2) == (item % 2) else 1.0 for person, row in enumerate(rows) for item in row]
    data = make_data(rows, 12, ratings=ratings)
    left = [next(item for item in range(12) if item not in row) for row in rows]
    requests = make_events([[item] for item in left])
    truth = np.array([5.0 if (person % 2) == (item % 2) else 1.0 for person, item in enumerate(left)])
    errors = {}
    for predictor in (Bias(), SVD(width=4, learning_rate=0.02, regularization=0.02, epochs=100)):
        predictor.fit(data)
        errors[type(predictor)] = np.sqrt(np.mean((predictions(predictor, requests) - truth) ** 2))
    assert errors[SVD] < 0.5
    assert errors[Bias] > 1.5


def test_nothing_is_rated(make_data):
    with pytest.raises(ValueError, match="`train` has no rating"):
        Bias().fit(make_data([[0]], 1))
