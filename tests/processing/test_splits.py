"""Histories and splits on tables small enough to follow by eye."""

import logging

import pytest
from datasets import Dataset

from unimp.processing.splits import (
    cold_items,
    leave_last_n,
    leave_one_out,
    make_split,
    new_domain,
    sequences,
    user_holdout,
)
from unimp.processing.store import make_store


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


def targets(rows):
    return [(row["user_id"], row["item_id"][-1]) for row in rows]


def test_leave_last_n(caplog):
    # Ann has seven events, a third of which is two; Bob has four and spares one; Cleo has none to spare.
    log = events([f"ann i{n} {n}" for n in range(1, 8)] + [f"bob i{n} {n}" for n in range(1, 5)] + ["cleo i1 1"])
    with caplog.at_level(logging.WARNING):
        split = leave_last_n(log, 5)
    ann, bob = [f"i{n}" for n in range(1, 8)], [f"i{n}" for n in range(1, 5)]
    assert split.name == "leave_last_5"
    assert split.test["item_id"][:] == [ann[:6], ann, bob]
    assert split.test["user_id"][:] == ["ann", "ann", "bob"]
    assert split.test["timestamp"][0] == [1, 2, 3, 4, 5, 6]
    assert split.validation["item_id"][:] == [ann[:4], ann[:5], bob[:3]]
    assert histories(split.train) == {"ann": ann[:3], "bob": bob[:2], "cleo": ["i1"]}
    assert "1 users have fewer than 3 events" in caplog.text


def test_leave_last_n_of_one_event_is_leave_one_out(log):
    one, same = leave_one_out(log, seed=4), leave_last_n(log, 1, seed=4)
    assert (one.name, same.name) == ("leave_one_out", "leave_last_1")
    for part in ("train", "validation", "test"):
        assert getattr(one, part).to_list() == getattr(same, part).to_list()


def test_every_event_is_a_target_of_one_part_at_most():
    split = leave_last_n(long_log(5, num_events=20), 3)
    held_out = [targets(part) for part in (split.validation, split.test)]
    trained = [(row["user_id"], item) for row in split.train for item in row["item_id"]]
    everything = [*held_out[0], *held_out[1], *trained]
    assert len(set(everything)) == len(everything) == 5 * 20


def test_cold_items_are_nowhere_but_among_the_answers(caplog):
    log = events([f"u{user} i{(3 * user + event) % 20} {event}" for user in range(40) for event in range(12)])
    with caplog.at_level(logging.INFO):
        split = cold_items(log, fraction=0.2, n=3)
    cold = set(split.new_items)
    assert len(cold) == 4
    assert cold < set(log["item_id"])
    for part in (split.train, split.validation):
        assert not cold.intersection(item for items in part["item_id"] for item in items)
    base = leave_last_n(log, 3)
    assert targets(split.test) == [target for target in targets(base.test) if target[1] in cold]
    assert targets(split.validation) == [target for target in targets(base.validation) if target[1] not in cold]
    for row in split.test:
        assert len(row["item_id"]) == len(row["timestamp"]) > 1
        assert not cold.intersection(row["item_id"][:-1])
    assert cold_items(log, fraction=0.2, n=3).new_items == split.new_items
    assert cold_items(log, fraction=0.2, n=3, seed=1).new_items != split.new_items
    assert cold_items(log.shuffle(seed=0), fraction=0.2, n=3).new_items == split.new_items


def test_rows_without_a_warm_item_are_left_out_and_counted(caplog):
    # Of 8 items 6 are cold. A row of test whose history has none of the other two cannot be asked about.
    log = events([f"u{user} i{(user + event) % 8} {event}" for user in range(30) for event in range(4)])
    with caplog.at_level(logging.WARNING):
        split = cold_items(log, fraction=0.75, n=1)
    cold = set(split.new_items)
    rows = [row["item_id"] for row in leave_one_out(log).test]
    askable = [row for row in rows if row[-1] in cold and set(row[:-1]) - cold]
    lost = sum(row[-1] in cold and not set(row[:-1]) - cold for row in rows)
    assert split.test["item_id"][:] == [[*(i for i in row[:-1] if i not in cold), row[-1]] for row in askable]
    assert lost > 0
    assert f"{lost} rows of test have no history" in caplog.text


@pytest.fixture
def two_domains():
    """Items i0 to i3 are toys, two of them tools as well; 20 users choose each item once."""
    kinds = [["toy"], ["toy", "tool"], ["tool", "toy"], ["toy"], ["book"], ["book"], ["book"], ["food"]]
    items = Dataset.from_dict(
        {"item_id": [f"i{n}" for n in range(8)], "kind": kinds, "year": [2001, 2001, *range(2, 8)]}
    )
    log = events([f"u{user} i{(user + event) % 8} {event}" for user in range(20) for event in range(8)])
    return make_store(items, log)


@pytest.mark.parametrize(
    ("column", "value", "domain"),
    [("kind", "toy", {"i0", "i1", "i2", "i3"}), ("kind", "tool", {"i1", "i2"}), ("year", "2001", {"i0", "i1"})],
)
def test_a_new_domain_has_other_items_and_other_users(two_domains, column, value, domain):
    split = new_domain(two_domains, column, value)
    assert split.name == f"new_domain:{column}={value}"
    assert set(split.new_items) == domain
    assert [len(part) for part in (split.train, split.validation, split.test)] == [14, 2, 4]
    users = [set(part["user_id"]) for part in (split.train, split.validation, split.test)]
    assert len(set.union(*users)) == 20
    assert all(set(row) == domain for row in split.test["item_id"])
    for part in (split.train, split.validation):
        assert all(len(row) == 8 - len(domain) and not domain.intersection(row) for row in part["item_id"])
    assert all(row["timestamp"] == sorted(row["timestamp"]) for row in split.test)
    other = new_domain(two_domains, column, value, seed=1)
    assert set(other.test["user_id"]) != users[2]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shop", "toy", "no attribute 'shop': got 'kind', 'year'"),
        ("kind", "toys", "must be 'toys' for some items and not for all, but is for 0 of 8; .*'book', 'food', 'tool'"),
        ("kind", "food", "2 events with items whose `kind` is 'food', .* but got 0 and 20"),
    ],
)
def test_a_domain_that_is_none_is_refused(two_domains, column, value, message):
    with pytest.raises(ValueError, match=message):
        new_domain(two_domains, column, value)


@pytest.mark.parametrize(
    "name", ["leave_one_out", "leave_last_2", "user_holdout", "cold_items", "new_domain:kind=toy"]
)
def test_a_split_is_made_by_its_name(two_domains, name):
    split = make_split(two_domains, name)
    assert split.name == name
    assert min(len(split.train), len(split.validation), len(split.test)) > 0
    assert make_split(two_domains, name).test.to_list() == split.test.to_list()


@pytest.mark.parametrize(
    "name", ["leave_two_out", "leave_last_0", "leave_last_x", "new_domain:kind", "new_domain:", ""]
)
def test_an_unknown_split_is_refused_with_the_choices(two_domains, name):
    with pytest.raises(ValueError, match=r"`split` must be one of leave_one_out, .*new_domain:COLUMN=VALUE, but got"):
        make_split(two_domains, name)


def test_a_log_sorted_by_rating_within_a_second_tells_nothing():
    """The last of the events of one second is the best rated one of the log no more often than chance has it."""
    log = events([f"u{user} i{event} 7" for user in range(400) for event in range(5)], rating=[1.0, 2, 3, 4, 5] * 400)
    last = [row["rating"][-1] for row in leave_one_out(log).test]
    assert last.count(5.0) == pytest.approx(400 / 5, abs=25)


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
    "no events of test": (lambda log: leave_last_n(log, 0), long_log(5), "`n` must be at least 1, but got 0"),
    "all cold": (lambda log: cold_items(log, 1.0), long_log(5), "`fraction` must be between 0 and 1, but got 1.0"),
    "nothing before": (lambda log: cold_items(log, 0.99), long_log(3), "nobody who chose one of the 4 held-out items"),
    "no time": (sequences, long_log(2).remove_columns("timestamp"), "no column `timestamp`"),
    "no events": (sequences, long_log(2).select([]), "`interactions` is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_raise_with_the_reason(name):
    split, table, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        split(table)
