"""The two tables: what comes in comes out, or is counted."""

import csv
import io
import json
import logging
import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from unimp.processing.catalog_unimp import Catalog
from unimp.processing.images_unimp import load_image
from unimp.processing.loaders.card import num_present
from unimp.processing.store import StoreReport, as_table, make_store, read_store, write_store

FORMATS = ("parquet", "jsonl", "csv")
INF, NAN = float("inf"), float("nan")


def items(**columns):
    return Dataset.from_dict({"item_id": ["a", "b"], "title": ["Hat", "Coat"]} | columns)


def events(**columns):
    return Dataset.from_dict(
        {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]} | columns
    )


def png(color="red"):
    buffer = io.BytesIO()
    PILImage.new("RGB", (2, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, rows):
    """Writes rows as the file format that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


ITEM_ROWS = [{"item_id": "007", "title": "Hat"}, {"item_id": "12", "title": "Coat"}]
EVENT_ROWS = [
    {"user_id": "01", "item_id": "007", "timestamp": 10, "rating": 4.5},
    {"user_id": "01", "item_id": "12", "timestamp": 11, "rating": None},
]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "items.jsonl", ITEM_ROWS)
    write(tmp_path / "interactions.jsonl", EVENT_ROWS)
    return tmp_path


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


def test_ratings_outside_the_range_become_missing(folder):
    for store in (
        make_store(items(), events(rating=[0.4, 5.0, 99.0]), rating_range=(0.5, 5)),
        make_store(items(), events(rating=[0, 5, 99]), rating_range=[0.5, 5]),
    ):
        assert store.interactions["rating"][:] == [None, 5.0, None]
        reason = "interactions: `rating` is outside 0.5 to 5 and is now missing"
        assert store.report.changed == {reason: 2}
        assert not store.report.skipped
    assert read_store(folder, rating_range=(1, 4)).interactions["rating"][:] == [None, None]
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
def test_bad_rating_ranges(folder, bad):
    with pytest.raises(ValueError, match="`rating_range` must be"):
        make_store(items(), events(), rating_range=bad)
    with pytest.raises(ValueError, match="`rating_range` must be"):
        read_store(folder, rating_range=bad)


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


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "title",
    ["👩‍👩‍👧 café 帽子", "word " * 10_000, 'a "quoted", title\nof two lines', "NaN", "2020-01-01", "0012"],
    ids=["emoji", "10,000 words", "quotes and lines", "NaN", "date", "digits"],
)
def test_titles_survive(tmp_path, format, title):
    write(tmp_path / f"items.{format}", [{"item_id": "👒", "title": title}])
    write(tmp_path / f"interactions.{format}", [{"user_id": "ü", "item_id": "👒", "timestamp": 1}])
    store = read_store(tmp_path)
    assert store.items[0] == {"item_id": "👒", "title": title}
    write_store(store.items, store.interactions, tmp_path / "copy")
    assert read_store(tmp_path / "copy").items[0]["title"] == title


def test_jsonl_ids_with_and_without_quotes(folder):
    write(folder / "items.jsonl", [{"item_id": "007"}, {"item_id": 12, "tags": ["x"]}])
    assert read_store(folder).items.to_list() == [{"item_id": "007", "tags": None}, {"item_id": "12", "tags": ["x"]}]


EVENT = '{"user_id": "01", "item_id": "007", '
BEYOND = "`{}` of .*jsonl` .*64 bits.*100000.*write"
SURROGATE = "`{}` of .*items.jsonl` .*surrogate.*ud800.*write"
FILES = {
    "no items": ("items.jsonl", None, "needs `items.parquet`, `items.jsonl` or `items.csv`.*interactions.jsonl"),
    "two tables": ("items.csv", "item_id\n1\n", "`items.jsonl` and `items.csv`; remove"),
    "not JSON": ("items.jsonl", '{"item_id": "a"}\n{oops}', r"items.jsonl:2` is not JSON"),
    "not an object": ("items.jsonl", '"a"', "must be an object"),
    "mixed attribute": (
        "items.jsonl",
        '{"item_id": "a", "b": 1}\n{"item_id": "c", "b": "x"}',
        "`b` of .* mixes types",
    ),
    "empty jsonl": ("items.jsonl", "", "`items` is empty"),
    "huge attribute": ("items.jsonl", '{"item_id": "a", "b": 1e1}\n{"item_id": "c", "b": HUGE}', BEYOND.format("b")),
    "huge part": ("items.jsonl", '{"item_id": "a", "b": {"c": [HUGE]}}', BEYOND.format("b")),
    "huge id": ("items.jsonl", '{"item_id": HUGE}', BEYOND.format("item_id")),
    "huge time": ("interactions.jsonl", EVENT + '"timestamp": HUGE}', BEYOND.format("timestamp")),
    "huge time among texts": (
        "interactions.jsonl",
        EVENT + '"timestamp": "1"}\n' + EVENT + '"timestamp": HUGE}',
        BEYOND.format("timestamp"),
    ),
    "huge rating": ("interactions.jsonl", EVENT + '"timestamp": 1, "rating": HUGE}', BEYOND.format("rating")),
    "too many digits": ("items.jsonl", '{"item_id": "a", "b": %s}' % ("9" * 5000), r"items.jsonl:1` is not JSON"),
    "3,000 deep": ("items.jsonl", '{"item_id": "a", "b": %s}' % ("[" * 3000 + "]" * 3000), "items.jsonl:1` .*nested"),
    "900 deep": ("items.jsonl", '{"item_id": "a", "b": %s}' % ("[" * 900 + "]" * 900), "`b` of .*items.jsonl.*nested"),
    "50 objects deep": (
        "items.jsonl",
        '{"item_id": "a", "b": %s}' % ('{"c":' * 50 + "1" + "}" * 50),
        "`b` of .*items.jsonl.*nested",
    ),
    "a deep line": ("items.jsonl", "[" * 900 + "]" * 900, "must be an object"),
    "lone surrogate": ("items.jsonl", r'{"item_id": "a", "b": "x\ud800"}', SURROGATE.format("b")),
    "lone surrogate in a list": ("items.jsonl", r'{"item_id": "a", "b": ["\ud800"]}', SURROGATE.format("b")),
    "lone surrogate in an id": ("items.jsonl", r'{"item_id": "\ud800"}', SURROGATE.format("item_id")),
    "lone surrogate in a name": ("items.jsonl", r'{"item_id": "a", "\ud800": 1}', r"ud800.*items.jsonl.*surrogate"),
}


@pytest.mark.parametrize("name", FILES)
def test_wrong_files_raise_with_the_reason(folder, name):
    file, text, message = FILES[name]
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text.replace("HUGE", str(10**30)))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_store(folder)


def test_one_wrong_rating_of_a_csv_file_is_missing(folder):
    (folder / "interactions.jsonl").unlink()
    rows = "user_id,item_id,timestamp,rating\nu,007,1,4.5\nu,12,2,n/a\nu,007,3,\n"
    (folder / "interactions.csv").write_text(rows)
    store = read_store(folder)
    assert store.interactions["rating"][:] == [4.5, None, None]
    assert store.report.changed["interactions: `rating` is not a number and is now missing"] == 1


CSV_FILES = {
    "empty": ("", "distinct column names"),
    "column twice": ("user_id,user_id\n1,2\n", "distinct column names"),
    "ragged": ("user_id,item_id,timestamp\nu,007\n", "cannot be read"),
    "rating in words": ("user_id,item_id,timestamp,rating\nu,007,1,good\n", "`rating`.*good"),
    "only a header": ("user_id,item_id,timestamp\n", "`interactions` is empty"),
}


@pytest.mark.parametrize("name", CSV_FILES)
def test_wrong_csv_files_raise_with_the_reason(folder, name):
    text, message = CSV_FILES[name]
    (folder / "interactions.jsonl").unlink()
    (folder / "interactions.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_store(folder)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_with_other_separators(folder, mark):
    (folder / "items.jsonl").unlink()
    rows = ["item_id", "title", "price"], ["a", "Hat", "12,50"]
    (folder / "items.csv").write_text("\n".join(mark.join(row) for row in rows))
    with pytest.raises(ValueError, match=rf"items\.csv` is separated by {re.escape(repr(mark))}: save it with commas"):
        read_store(folder)


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


@pytest.mark.parametrize("suffix", ["gif", "TIFF", "bmp"])
def test_pictures_of_every_format_are_found(folder, suffix):
    (folder / "images").mkdir(exist_ok=True)
    PILImage.new("RGB", (2, 2)).save(folder / "images" / f"12.{suffix}")
    assert num_present(read_store(folder).items, "image") == 1


ENCODINGS = ("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("format", ["jsonl", "csv"])
@pytest.mark.parametrize("far", [False, True])
def test_files_that_are_not_utf8(folder, format, encoding, far):
    (folder / "items.jsonl").unlink()
    ids = [*(str(number) for number in range(2000 if far else 0)), "é"]
    lines = {"csv": ["item_id", *ids], "jsonl": [f'{{"item_id": "{item}"}}' for item in ids]}[format]
    (folder / f"items.{format}").write_text("\n".join(lines), encoding=encoding)
    with pytest.raises(ValueError, match=rf"items\.{format}` is not UTF-8.*save it as UTF-8"):
        read_store(folder)


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, format):
    for name, rows in (("items", ITEM_ROWS), ("interactions", EVENT_ROWS)):
        path = tmp_path / f"{name}.{format}"
        write(path, rows)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    store = read_store(tmp_path)
    assert store.items.to_list() == ITEM_ROWS
    assert store.interactions.to_list() == EVENT_ROWS
    assert not store.report


def test_no_folder():
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_store("no/such/folder")


def test_damaged_parquet(folder):
    (folder / "items.jsonl").unlink()
    (folder / "items.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="not a readable parquet"):
        read_store(folder)


# Pictures


def red_of(picture):
    return load_image(picture).getpixel((0, 0))[0]


@pytest.mark.parametrize("path", ["images/x.png", "x.png", "photos/x.png", "images/deep/x.png", "deep/x.png"])
def test_picture_paths_are_relative_to_the_folder_or_to_images(folder, path):
    for place in ("images/x.png", "photos/x.png", "images/deep/x.png"):
        (folder / place).parent.mkdir(exist_ok=True, parents=True)
        (folder / place).write_bytes(png())
    write(folder / "items.jsonl", [{"item_id": "007", "image": path}, {"item_id": "12", "image": None}])
    store = read_store(folder)
    assert store.items.features["image"] == Image(decode=False)
    assert store.items[0]["image"]["bytes"] is None
    assert red_of(store.items[0]["image"]) == 255
    assert store.items[1]["image"] is None
    assert not store.report


@pytest.mark.parametrize("path", ["../secret.png", "images/../../secret.png", "link.png", "{outside}", "gone.png"])
def test_pictures_outside_the_folder_are_left_out(tmp_path, path):
    outside, inside = tmp_path / "secret.png", tmp_path / "data"
    (inside / "images").mkdir(parents=True)
    outside.write_bytes(png())
    (inside / "images" / "link.png").symlink_to(outside)
    write(inside / "items.jsonl", [{"item_id": "007", "image": path.format(outside=outside)}])
    write(inside / "interactions.jsonl", EVENT_ROWS[:1])
    store = read_store(inside)
    assert store.items[0]["image"] is None
    assert list(store.report.changed.values()) == [1]
    assert list(store.report.examples.values()) == [[path.format(outside=outside)]]


def test_pictures_are_found_by_item_id(folder):
    (folder / "images").mkdir()
    (folder / "images" / "007.png").write_bytes(png())
    (folder / "images" / "notes.txt").write_text("no picture")
    store = read_store(folder)
    assert red_of(store.items[0]["image"]) == 255
    assert store.items[1]["image"] is None


def test_without_pictures_there_is_no_column(folder):
    (folder / "images").mkdir()
    assert read_store(folder).items.column_names == ["item_id", "title"]


def test_every_kind_of_picture_column(tmp_path):
    file = tmp_path / "hat.png"
    file.write_bytes(png())
    columns = {
        "paths": [str(file), None],
        "bytes": [png(), None],
        "structs": [{"bytes": png(), "path": "any name"}, None],
        "struct with a path": [{"bytes": None, "path": str(file)}, {"bytes": None, "path": None}],
    }
    for values in columns.values():
        store = make_store(items(image=values), events())
        assert red_of(store.items[0]["image"]) == 255
        assert store.items[1]["image"] is None
    nothing = make_store(items(image=[None, None]), events())
    assert nothing.items["image"][:] == [None, None]
    decoded = items(image=[png(), None]).cast_column("image", Image())
    assert red_of(make_store(decoded, events()).items[0]["image"]) == 255


def test_pictures_are_not_opened_when_reading(folder):
    (folder / "images").mkdir()
    (folder / "images" / "007.png").write_bytes(b"not a picture")
    assert read_store(folder).items[0]["image"]["path"].endswith("007.png")


# Writing


def test_round_trip(tmp_path, folder):
    (folder / "images").mkdir()
    (folder / "images" / "007.png").write_bytes(png())
    store = read_store(folder)
    write_store(store.items, store.interactions, tmp_path / "new" / "copy")
    (folder / "images" / "007.png").unlink()
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
        "altered 1 rows: odd rating (such as nan)",
    ]
