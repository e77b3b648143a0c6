"""The two tables: what comes in comes out, or is counted."""

import logging
from datetime import UTC, datetime

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from unimp.processing.catalog_unimp import Catalog
from unimp.processing.store import StoreReport, as_table, make_store, read_store, write_store

from .tables import EVENT_ROWS, FORMATS, INF, ITEM_ROWS, NAN, events, items, png, write


def test_clean_tables_pass_unchanged():
    store = make_store(items(), events(rating=[1.0, None, 5.0], query=["warm", None, ""]))
    assert store.items.to_list() == items().to_list()
    assert store.interactions.to_list() == events(rating=[1.0, None, 5.0], query=["warm", None, ""]).to_list()
    assert not store.report
    assert str(store.report) == "every row was used as it is"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_reads_alike(tmp_path, format):
    write(tmp_path / f"items.{format}", ITEM_ROWS)
    write(tmp_path / f"interactions.{format}", EVENT_ROWS)
    store = read_store(tmp_path)
    assert store.items.to_list() == ITEM_ROWS
    assert store.interactions.to_list() == EVENT_ROWS
    assert store.interactions.features["timestamp"] == Value("int64")


# name: (items, interactions, reason, rows left out or altered, their values)
SKIPPED = {
    "repeated item": (
        items(item_id=["a", "b", "a"], title=["Hat", "Coat", "Other"]),
        events(),
        "items: `item_id` was there before",
        ["a"],
    ),
    "item without id": (
        items(item_id=["a", None, "", "b"], title=["1", "2", "3", "4"]),
        events(),
        "items: `item_id` is missing",
        [None, None],
    ),
    "event without user": (items(), events(user_id=["u", None, "v"]), "interactions: `user_id` is missing", [None]),
    "event without item": (items(), events(item_id=["a", "b", None]), "interactions: `item_id` is missing", [None]),
    "unknown item": (items(), events(item_id=["a", "b", "z"]), "interactions: `item_id` is not in `items`", ["z"]),
    "repeated event": (
        items(),
        events(item_id=["a", "a", "a"], timestamp=[1, 1, 1]),
        "interactions: the same user, item and time were there before",
        ["u"],
    ),
    "no time": (
        items(),
        events(timestamp=[1, None, 3]),
        "interactions: `timestamp` is missing or unreadable",
        [None],
    ),
    "infinite time": (
        items(),
        events(timestamp=[1.0, INF, 1e300]),
        "interactions: `timestamp` is missing or unreadable",
        [INF, 1e300],
    ),
    "unreadable time": (
        items(),
        events(timestamp=["1", "yesterday", "2020-01-01"]),
        "interactions: `timestamp` is missing or unreadable",
        ["yesterday"],
    ),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_unusable_rows_are_left_out_and_counted(name, caplog):
    item_rows, event_rows, reason, values = SKIPPED[name]
    with caplog.at_level(logging.WARNING):
        store = make_store(item_rows, event_rows)
    assert store.report.skipped == {reason: len(values)}
    assert store.report.examples == {reason: values}
    assert not store.report.changed
    assert reason in caplog.text
    rows_out = len(store.items) + len(store.interactions)
    assert rows_out + len(values) == len(item_rows) + len(event_rows)


CHANGED = {
    "ratings that are not finite": (
        items(),
        events(rating=[NAN, -INF, 5.0]),
        "interactions: `rating` is not finite and is now missing",
        2,
        ("interactions", "rating", [None, None, 5.0]),
    ),
    "no rating at all, in a column of texts": (
        items(),
        events(rating=["", " NaN ", None]),
        "interactions: `rating` is not a number and is now missing",
        2,
        ("interactions", "rating", [None, None, None]),
    ),
    "some ratings in words": (
        items(),
        events(rating=["4.5", "good", None]),
        "interactions: `rating` is not a number and is now missing",
        1,
        ("interactions", "rating", [4.5, None, None]),
    ),
    "whole-number ids": (
        items(item_id=[7, 8]),
        events(item_id=["7", "8", "7"]),
        "items: `item_id` was a whole number and is now text",
        2,
        ("items", "item_id", ["7", "8"]),
    ),
    "missing picture files": (
        items(image=["gone.png", None]),
        events(),
        "items: `image` names no file that may be used and is now missing",
        1,
        ("items", "image", [None, None]),
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_altered_values_are_counted_and_the_rows_kept(name):
    item_rows, event_rows, reason, count, (table, column, expected) = CHANGED[name]
    store = make_store(item_rows, event_rows)
    assert store.report.changed == {reason: count}
    assert not store.report.skipped
    assert list(getattr(store, table)[column]) == expected


def test_the_first_of_repeated_rows_stays():
    store = make_store(items(item_id=["a", "a"]), events(item_id=["a"] * 3, timestamp=[1, 1, 1], rating=[1, 2, 3]))
    assert store.items["title"][:] == ["Hat"]
    assert store.interactions["rating"][:] == [1.0, 3.0]


def test_every_reason_is_counted_once_and_nothing_is_lost():
    raw_items = items(item_id=["a", "a", None, "b"], title=["1", "2", "3", "4"])
    raw_events = Dataset.from_dict(
        {
            "user_id": ["u", "u", "u", "u", "u", None, None],
            "item_id": ["a", "a", "z", "b", "b", "a", "z"],
            "timestamp": [1.0, 1.0, 1.0, NAN, 2.0, 1.0, NAN],
        }
    )
    store = make_store(raw_items, raw_events)
    assert list(store.report.skipped.values()) == [1, 1, 2, 1, 1, 1]
    assert len(store.items) + 2 == len(raw_items)
    assert len(store.interactions) + 5 == len(raw_events)


DAY = 86_400
TIMES = {
    "seconds": ([1, 2, 3], [1, 2, 3]),
    "fractions": ([1.9, -0.5, 3.0], [1, -1, 3]),
    "datetimes": (
        [datetime(1970, 1, 2), datetime(1970, 1, 1, 0, 0, 5, 900_000), datetime(1970, 1, 3)],
        [DAY, 5, 2 * DAY],
    ),
    "datetimes with a zone": ([datetime(1970, 1, 2, tzinfo=UTC)] * 3, [DAY] * 3),
    "dates": ([datetime(1970, 1, 2).date()] * 3, [DAY] * 3),
    "texts": (["1970-01-02", "1970-01-01T00:00:07+00:00", "12"], [DAY, 7, 12]),
    "texts with an hour of difference": (["1970-01-01T01:00:00+01:00"] * 3, [0] * 3),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_become_seconds(name):
    given, expected = TIMES[name]
    store = make_store(items(), events(item_id=["a", "b", "a"], timestamp=given))
    assert list(store.interactions["timestamp"]) == expected
    assert store.interactions.features["timestamp"] == Value("int64")


def test_ratings_outside_the_range_become_missing(store_folder):
    for store in (
        make_store(items(), events(rating=[0.4, 5.0, 99.0]), rating_range=(0.5, 5)),
        make_store(items(), events(rating=[0, 5, 99]), rating_range=[0.5, 5]),
    ):
        assert store.interactions["rating"][:] == [None, 5.0, None]
        reason = "interactions: `rating` is outside 0.5 to 5 and is now missing"
        assert store.report.changed == {reason: 2}
        assert not store.report.skipped
    assert read_store(store_folder, rating_range=(1, 4)).interactions["rating"][:] == [None, None]
    both = make_store(items(), events(rating=[INF, 0.0, 1.0]), rating_range=(1, 5))
    assert list(both.report.changed.values()) == [1, 1]
    assert both.interactions["rating"][:] == [None, None, 1.0]
    assert "rating" not in make_store(items(), events(), rating_range=(1, 5)).interactions.column_names


def test_without_a_range_the_one_found_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        make_store(items(), events(rating=[0.5, NAN, 5.0]))
        assert "scale of ratings is 0.5 to 5" in caplog.text
        caplog.clear()
        make_store(items(), events(rating=[0.5, 1.0, 5.0]), rating_range=(0, 5))
        make_store(items(), events(rating=[None, None, None]))
        assert "scale of ratings" not in caplog.text


@pytest.mark.parametrize("bad", [(5, 1), (1, 1), (1,), (1, 2, 3), 5, "15", (None, 5), (NAN, 5), (0, INF)], ids=repr)
def test_bad_rating_ranges(store_folder, bad):
    with pytest.raises(ValueError, match="`rating_range` must be"):
        make_store(items(), events(), rating_range=bad)
    with pytest.raises(ValueError, match="`rating_range` must be"):
        read_store(store_folder, rating_range=bad)


TRUTHS = {
    "truth values": ([True, False, None], [True, False, None]),
    "words": (["true", "FALSE", None], [True, False, None]),
    "yes and no": (["Yes", " no ", "yes"], [True, False, True]),
    "digits as text": (["1", "0", "1"], [True, False, True]),
    "digits": ([1, 0, None], [True, False, None]),
    "nothing": ([None, None, None], [None, None, None]),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_available_is_read_as_truth_values(name):
    given, expected = TRUTHS[name]
    store = make_store(items(item_id=["a", "b", "c"], title=["1", "2", "3"], available=given), events())
    assert store.items["available"][:] == expected
    assert store.items.features["available"] == Value("bool")
    assert not store.report


def test_available_from_csv(tmp_path):
    write(tmp_path / "items.csv", [{"item_id": "a", "available": "no"}, {"item_id": "b", "available": ""}])
    write(tmp_path / "interactions.jsonl", [{"user_id": "u", "item_id": "a", "timestamp": 1}])
    assert Catalog(as_table(read_store(tmp_path).items)).available == [False, True]


NOTHING = {"user_id": [], "item_id": [], "timestamp": []}
WRONG = {
    "no item_id": (items().rename_column("item_id", "itemId"), events(), r"`items` has no column `item_id`.*`itemId`"),
    "a near name": (items(), events().rename_column("timestamp", "time_stamp"), "rename `time_stamp`"),
    "another name for the id": (items().rename_column("item_id", "id"), events(), r"`item_id`.*rename `id`"),
    "no near name": (items(), events().rename_column("user_id", "wxyz"), r"no column `user_id`.*add it"),
    "empty items": (items(item_id=[], title=[]), events(), "`items` is empty"),
    "empty interactions": (items(), Dataset.from_dict(NOTHING), "`interactions` is empty"),
    "only unknown items": (items(), events(item_id=["x", "y", "z"]), r"no usable row: all 3(.|\n)*not in `items`"),
    "only missing ids": (items(item_id=[None, None]), events(), "`items` has no usable row"),
    "ids with a point": (items(item_id=[1.5, 2.5]), events(), "`item_id` must be text, but got double"),
    "truth values as ids": (items(), events(user_id=[True, False, True]), "`user_id` must be text, but got bool"),
    "ratings in words": (items(), events(rating=["good", "bad", "good"]), "`rating` must be a number.*'good'"),
    "truth values as ratings": (items(), events(rating=[True, False, True]), "`rating` must be a number"),
    "times in lists": (items(), events(timestamp=[[1], [2], [3]]), "`timestamp` must be seconds or datetimes"),
    "numbers as explanations": (items(), events(explanation=[1, 2, 3]), "`explanation` must be text"),
    "availability in words": (items(available=["in stock", "no"]), events(), "`available` .*got 'in stock'"),
    "availability as a number": (items(available=[1, 2]), events(), "`available` .*got '2'"),
    "availability as a share": (items(available=[0.5, 1.0]), events(), "`available` .*got double"),
    "a time beyond 64 bits": (
        items(),
        events(timestamp=np.array([2**63] * 3, np.uint64)),
        r"no usable row(.|\n)*`timestamp`",
    ),
    "numbers as pictures": (items(image=[1, 2]), events(), "`image` must hold pictures, bytes or paths"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_raise_with_the_reason(name):
    item_rows, event_rows, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make_store(item_rows, event_rows)


@pytest.mark.parametrize("column", ["rating", "query", "timestamp", "behavior", "explanation", "user_id"])
def test_items_with_the_columns_of_events_are_refused(column):
    with pytest.raises(ValueError, match=f"`items` has a column `{column}`.*`item_{column}`"):
        make_store(items(**{column: ["1", "2"]}), events())


def test_large_ratings_are_numbers():
    assert make_store(items(), events(rating=[1, 2, 10**17 + 1])).interactions["rating"][:] == [1.0, 2.0, 1e17]


@pytest.mark.parametrize("column", ["Rating", " query", "BEHAVIOR"])
def test_misspelt_columns_of_events(column):
    meant = column.lower().strip()
    with pytest.raises(ValueError, match=f"`interactions` has a column `{column}`: rename it to `{meant}`"):
        make_store(items(), events(**{column: [None, None, None]}))
    both = events(**{column: [None, None, None], meant: [None, None, None]})
    assert len(make_store(items(), both).interactions) == 3


@pytest.mark.parametrize("column", ["Available", "Image"])
def test_misspelt_columns_of_items(column):
    with pytest.raises(ValueError, match=f"`items` has a column `{column}`: rename it to `{column.lower()}`"):
        make_store(items(**{column: ["yes", "no"]}), events())


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([1_777_000_000_000, 1, 2], "goes up to 1777000000000: divide milliseconds by 1000"),
        ([20260503, 20260504, 20251231], "goes up to 20260504: write days as 2026-05-03"),
        ([0, 1, 2], None),
        ([1_777_000_000, 20260503, 3], None),
    ],
)
def test_times_that_are_hardly_seconds_are_warned_of(times, said, caplog):
    make_store(items(), events(timestamp=times))
    expected = [f"`timestamp` is seconds since 1970, but {said}."] if said else []
    assert [record.message for record in caplog.records] == expected


# Writing


def test_round_trip(tmp_path, store_folder):
    (store_folder / "images").mkdir()
    (store_folder / "images" / "007.png").write_bytes(png())
    store = read_store(store_folder)
    write_store(store.items, store.interactions, tmp_path / "new" / "copy")
    (store_folder / "images" / "007.png").unlink()
    copy = read_store(tmp_path / "new" / "copy")
    assert not copy.report
    assert copy.interactions.to_list() == store.interactions.to_list()
    assert copy.items.remove_columns("image").to_list() == ITEM_ROWS
    assert copy.items[0]["image"] == {"bytes": png(), "path": "007.png"}
    assert copy.items[1]["image"] is None


def test_a_written_table_opens_with_datasets(tmp_path):
    write_store(items(image=[png(), None]), events(), tmp_path)
    opened = Dataset.from_parquet(str(tmp_path / "items.parquet"), cache_dir=str(tmp_path / "cache"))
    assert opened[0]["image"].size == (2, 2)


def test_features_and_attributes_of_any_type_survive(tmp_path):
    features = Features(
        {"item_id": Value("string"), "kind": ClassLabel(names=["hat", "coat"]), "sizes": [Value("int32")]}
    )
    given = Dataset.from_dict({"item_id": ["a", "b"], "kind": [0, 1], "sizes": [[1, 2], []]}, features=features)
    write_store(given, events(), tmp_path)
    store = read_store(tmp_path)
    assert store.items.features == features
    assert store.items.to_list() == given.to_list()


def test_selected_rows_are_the_ones_used():
    store = make_store(items().select([1]), events().filter(lambda row: row["item_id"] == "b"))
    assert store.items["item_id"][:] == ["b"]
    assert len(store.interactions) == 1


def test_the_report_reads_well():
    report = StoreReport()
    report.skip("no id", [])
    assert not report
    report.skip("no id", ["x" * 100, 2])
    report.skip("no id", [3, 4])
    report.change("odd rating", [NAN])
    shown = str(report).splitlines()
    assert shown == [
        f"left out 4 rows: no id (such as '{'x' * 59}..., 2, 3)",
        "altered 1 row: odd rating (such as nan)",
    ]
