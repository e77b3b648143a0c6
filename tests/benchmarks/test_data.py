"""Rows become arrays, and back."""

import numpy as np
import pytest
from baselines.data import encode_split
from datasets import Dataset

from unimp.processing.splits import leave_one_out


@pytest.fixture
def split():
    rows = [("u", "b", 1), ("u", "a", 2), ("u", "c", 3), ("u", "a", 4), ("v", "c", 1)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True))
    extra = {"rating": [1.0, None, 3.0, 4.0, 5.0], "explanation": [None, "fine", "bad", None, "good"]}
    return leave_one_out(Dataset.from_dict(columns | extra))


def test_ids_become_numbers(split):
    encoded = encode_split(split, ["a", "b", "c", "never"])
    assert encoded.train.num_users == 2
    assert encoded.train.num_items == 4
    assert encoded.train.events.items.tolist() == [1, 0, 2]
    assert encoded.train.events.offsets.tolist() == [0, 2, 3]
    assert encoded.train.events.texts.tolist() == [None, "fine", "good"]
    np.testing.assert_array_equal(encoded.train.events.ratings, [1, np.nan, 5])
    assert encoded.train.popularity.tolist() == [1, 1, 1, 0]
    assert encoded.test.users.tolist() == [0]
    assert encoded.test.items.tolist() == [1, 0, 2, 0]


def test_the_whole_catalogue_is_needed(split):
    with pytest.raises(ValueError, match="`item_ids` lacks 'c'"):
        encode_split(split, ["a", "b"])
    with pytest.raises(ValueError, match=r"`features\['text'\]` has 2 rows for 3 items"):
        encode_split(split, ["a", "b", "c"], {"text": np.ones((2, 5))})


def test_histories_lack_the_last_event(make_events):
    events = make_events([[3, 1], [2], [0, 1, 2]], ratings=[1, 2, 3, 4, 5, 6])
    histories = events.histories()
    assert histories.items.tolist() == [3, 0, 1]
    assert histories.offsets.tolist() == [0, 1, 1, 3]
    assert histories.ratings.tolist() == [1, 4, 5]
    assert events.items[events.last].tolist() == [1, 2, 2]
    with pytest.raises(ValueError, match="at least one event"):
        histories.histories()


def test_parts_of_rows(make_events):
    events = make_events([[3, 1], [2], [0, 1, 2]])
    for part in (events.rows(1, 3), events.select(np.array([False, True, True]))):
        assert part.users.tolist() == [1, 2]
        assert part.items.tolist() == [2, 0, 1, 2]
        assert part.offsets.tolist() == [0, 1, 4]


def test_the_matrix_weighs_by_age(make_events):
    matrix = make_events([[3, 1, 3], [2]]).matrix(4, decay=0.5).toarray()
    np.testing.assert_allclose(matrix, [[0, 0.5, 0, 1.25], [0, 0, 1, 0]])


def test_features_side_by_side(make_data):
    data = make_data([[0, 1]], 2, {"text": np.array([[3.0, 4.0], [0, 0]]), "picture": np.array([[2.0], [-1.0]])})
    np.testing.assert_allclose(data.unit_features(("text", "picture")), [[0.6, 0.8, 1], [0, 0, -1]])
    with pytest.raises(ValueError, match=r"no 'sound', only \['picture', 'text'\]"):
        data.unit_features(("sound",))
