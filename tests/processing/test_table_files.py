"""Tables as files: every format reads alike, and what cannot be read is refused with the file's name."""

import re

import pytest

from unimp.processing.store import read_store, write_store

from .tables import EVENT_ROWS, FORMATS, ITEM_ROWS, write


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


def test_jsonl_ids_with_and_without_quotes(store_folder):
    write(store_folder / "items.jsonl", [{"item_id": "007"}, {"item_id": 12, "tags": ["x"]}])
    assert read_store(store_folder).items.to_list() == [
        {"item_id": "007", "tags": None},
        {"item_id": "12", "tags": ["x"]},
    ]


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
def test_wrong_files_raise_with_the_reason(store_folder, name):
    file, text, message = FILES[name]
    if text is None:
        (store_folder / file).unlink()
    else:
        (store_folder / file).write_text(text.replace("HUGE", str(10**30)))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_store(store_folder)


def test_one_wrong_rating_of_a_csv_file_is_missing(store_folder):
    (store_folder / "interactions.jsonl").unlink()
    rows = "user_id,item_id,timestamp,rating\nu,007,1,4.5\nu,12,2,n/a\nu,007,3,\n"
    (store_folder / "interactions.csv").write_text(rows)
    store = read_store(store_folder)
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
def test_wrong_csv_files_raise_with_the_reason(store_folder, name):
    text, message = CSV_FILES[name]
    (store_folder / "interactions.jsonl").unlink()
    (store_folder / "interactions.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_store(store_folder)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_with_other_separators(store_folder, mark):
    (store_folder / "items.jsonl").unlink()
    rows = ["item_id", "title", "price"], ["a", "Hat", "12,50"]
    (store_folder / "items.csv").write_text("\n".join(mark.join(row) for row in rows))
    with pytest.raises(ValueError, match=rf"items\.csv` is separated by {re.escape(repr(mark))}: save it with commas"):
        read_store(store_folder)


ENCODINGS = ("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("format", ["jsonl", "csv"])
@pytest.mark.parametrize("far", [False, True])
def test_files_that_are_not_utf8(store_folder, format, encoding, far):
    (store_folder / "items.jsonl").unlink()
    ids = [*(str(number) for number in range(2000 if far else 0)), "é"]
    lines = {"csv": ["item_id", *ids], "jsonl": [f'{{"item_id": "{item}"}}' for item in ids]}[format]
    (store_folder / f"items.{format}").write_text("\n".join(lines), encoding=encoding)
    with pytest.raises(ValueError, match=rf"items\.{format}` is not UTF-8.*save it as UTF-8"):
        read_store(store_folder)


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


def test_damaged_parquet(store_folder):
    (store_folder / "items.jsonl").unlink()
    (store_folder / "items.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="not a readable parquet"):
        read_store(store_folder)
