"""Users' vectors find groups of people, and features place new items."""

import numpy as np
import pytest
from baselines.factorisation import BPR, VBPR, user_vectors

# Two groups of twenty people, who choose seven of ten items each. The last two items are new, one of either kind.
NUM_ITEMS = 22


@pytest.fixture
def groups(make_data):
    rng = np.random.default_rng(0)
    rows = [(person // 20 * 10 + rng.permutation(10)[:7]).tolist() for person in range(40)]
    text = np.zeros((NUM_ITEMS, 2))
    text[:10, 0] = text[10:20, 1] = text[20, 0] = text[21, 1] = 1
    return make_data(rows, NUM_ITEMS, {"text": text})


RANKERS = [BPR(width=8, epochs=200), VBPR(width=8, feature_width=4, learning_rate=0.05, batch_size=64)]


@pytest.mark.parametrize("ranker", RANKERS, ids=["bpr", "vbpr"])
def test_groups_are_found(groups, ranker):
    ranker.fit(groups)
    scores = ranker.score(groups.events)
    own = np.stack([scores[:20, :10], scores[20:, 10:20]])
    others = np.stack([scores[:20, 10:20], scores[20:, :10]])
    assert (own.mean(-1) > others.max(-1)).mean() > 0.9
    assert scores.shape == (40, NUM_ITEMS)
    assert scores.dtype == np.float32


def test_vbpr_places_new_items_by_their_features(groups):
    ranker = RANKERS[1]
    ranker.fit(groups)
    new = ranker.score(groups.events)[:, 20:]
    assert (new[:20, 0] > new[:20, 1]).all()
    assert (new[20:, 1] > new[20:, 0]).all()


def test_bpr_knows_nothing_of_new_items(groups):
    ranker = RANKERS[0]
    ranker.fit(groups)
    assert (ranker.score(groups.events)[:, 20:] == 0).all()


def test_a_person_not_in_training_is_the_mean():
    vectors = np.array([[1.0, 2], [3, 6]])
    np.testing.assert_array_equal(user_vectors(vectors, np.array([1, -1])), [[3, 6], [2, 4]])
