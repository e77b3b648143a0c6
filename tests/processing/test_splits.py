"""Histories and splits on tables small enough to follow by eye."""

import logging

import pytest
from datasets import Dataset

from unimp.processing.splits import leave_one_out, sequences, user_holdout


def events(rows, **columns):
    """Events from strings such as "ann hat 3": user, item, time."""
    users, items, times = zip(*(row.split() for row in rows), strict=True)
    return Dataset.from_dict(
        {"user_id": users, "item_id": items, "timestamp": [int(time) for time in times]} | columns,
    )


def histories(rows):
    return {row["user_id"]: row["item_id"] for row in rows}


@pytest.fixture
def log():
    """Ann has four events, Bob three, Cleo two, Dan one; Bob comes first, and Ann's are out of order."""
    first = "bob hat 5, ann sock 4, ann hat 1, bob coat 6, cleo hat 1, "
    rest = "ann coat 2, ann tie 3, dan hat 1, bob tie 7, cleo tie 2"
    return events((first + rest).split(", "))


def long_log(num_users, num_events=4):
    return events([f"u{user} i{event} {event}" for user in range(num_users) for event in range(num_events)])


def test_events_are_gathered_by_user_in_order_of_time(log):
    rows = sequences(log)
    assert rows["user_id"][:] == ["bob", "ann", "cleo", "dan"]
    assert rows["item_id"][:] == [["hat", "coat", "tie"], ["hat", "coat", "tie", "sock"], ["hat", "tie"], ["hat"]]
    assert rows["timestamp"][:] == [[5, 6, 7], [1, 2, 3, 4], [1, 2], [1]]


def test_what_events_carry_stays_with_them():
    table = events(["u b 2", "u a 1"], rating=[5.0, None], query=["warm", "cold"], note=["not", "kept"])
    assert sequences(table).to_list() == [
        {
            "user_id": "u",
            "item_id": ["a", "b"],
            "timestamp": [1, 2],
            "rating": [None, 5.0],
            "query": ["cold", "warm"],
        }
    ]


def test_selected_rows_are_the_ones_used(log):
    assert histories(sequences(log.select([8, 0]))) == {"bob": ["hat", "tie"]}


def test_ties_are_shuffled_by_the_seed():
    tied = events([f"u {item} 7" for item in "abcdefgh"] + ["u z 8", "u y 6"])
    orders = {seed: sequences(tied, seed)["item_id"][0] for seed in range(20)}
    assert all(order[0] == "y" and order[-1] == "z" for order in orders.values())
    assert all(sorted(order) == sorted("abcdefghyz") for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) > 15
    assert orders[3] == sequences(tied, 3)["item_id"][0]
    # Neither the id nor the row decides: each item comes last of the tied ones now and then.
    last = [sequences(tied, seed)["item_id"][0][-2] for seed in range(200)]
    assert {item: last.count(item) > 5 for item in "abcdefgh"} == dict.fromkeys("abcdefgh", True)


def test_leave_one_out(log, caplog):
    with caplog.at_level(logging.WARNING):
        split = leave_one_out(log)
    assert split.name == "leave_one_out"
    assert histories(split.test) == {"bob": ["hat", "coat", "tie"], "ann": ["hat", "coat", "tie", "sock"]}
    assert histories(split.validation) == {"bob": ["hat", "coat"], "ann": ["hat", "coat", "tie"]}
    assert histories(split.train) == {"bob": ["hat"], "ann": ["hat", "coat"], "cleo": ["hat", "tie"], "dan": ["hat"]}
    assert split.train["timestamp"][:] == [[5], [1, 2], [1, 2], [1]]
    assert "2 users have fewer than 3 events" in caplog.text


def test_leave_one_out_agrees_with_itself_about_ties():
    split = leave_one_out(events([f"u {item} 7" for item in "abcdefgh"]), seed=5)
    (test,), (validation,), (train,) = split.test["item_id"], split.validation["item_id"], split.train["item_id"]
    assert test[:-1] == validation
    assert test[:-2] == train


def test_user_holdout_parts_are_disjoint_and_whole():
    split = user_holdout(long_log(50))
    parts = [set(part["user_id"]) for part in (split.train, split.validation, split.test)]
    assert split.name == "user_holdout"
    assert [len(part) for part in parts] == [40, 5, 5]
    assert set.union(*parts) == {f"u{user}" for user in range(50)}
    assert all(row["item_id"] == ["i0", "i1", "i2", "i3"] for row in split.test)


def test_user_holdout_depends_on_the_seed_only():
    def test_users(seed):
        return user_holdout(long_log(50), seed=seed).test["user_id"][:]

    assert test_users(1) == test_users(1)
    assert test_users(1) != test_users(2)


def test_users_of_one_event_are_only_trained_on(caplog):
    log = events(["a x 1", "b x 1", "b y 2", "c x 1", "c y 2", "d x 1", "d y 2", "e x 1"])
    with caplog.at_level(logging.WARNING):
        split = user_holdout(log)
    assert {"a", "e"} < set(split.train["user_id"])
    assert [len(split.train), len(split.validation), len(split.test)] == [3, 1, 1]
    assert "2 users have fewer than 2 events" in caplog.text


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)])
@pytest.mark.parametrize("num_users", [3, 4, 5, 7])
def test_every_part_gets_a_user(fractions, num_users):
    split = user_holdout(long_log(num_users), fractions)
    sizes = [len(split.train), len(split.validation), len(split.test)]
    assert min(sizes) >= 1
    assert sum(sizes) == num_users


@pytest.mark.parametrize(
    "fractions", [(0.8, 0.2), (0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1), (float("nan"),) * 3]
)
def test_bad_fractions(fractions):
    with pytest.raises(ValueError, match="`fractions` must be three positive numbers"):
        user_holdout(long_log(10), fractions)


WRONG = {
    "too few users": (user_holdout, long_log(2), "needs 3 users .* got 2"),
    "too few events": (leave_one_out, long_log(5, num_events=2), "at least 3 events, but the most is 2"),
    "no time": (sequences, long_log(2).remove_columns("timestamp"), "no column `timestamp`"),
    "no events": (sequences, long_log(2).select([]), "`interactions` is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_raise_with_the_reason(name):
    split, table, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        split(table)
