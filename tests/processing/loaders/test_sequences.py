"""The plain sequence format."""

import pytest

from unimp.processing.loaders.prepare import build_store
from unimp.processing.loaders.sequences import read_sequences

from .conftest import rows_of


@pytest.fixture
def folder(raw):
    (raw / "user_sequence.txt").write_text("u1 b a b\n\nu2 a\nu3\nu4 c\n")
    (raw / "items.jsonl").write_text(
        '{"asin": "a", "title": "Red nail polish", "attributes": ["OPI", "Nails"]}\n{"asin": "b", "attributes": []}\n'
    )
    return raw


def test_sequences(folder):
    store = build_store(read_sequences(folder), min_events=0)
    assert store.items.to_list() == [
        {"item_id": "a", "title": "Red nail polish", "attributes": ["OPI", "Nails"]},
        {"item_id": "b", "title": None, "attributes": []},
    ]
    assert rows_of(store.interactions, "user_id", "item_id", "timestamp") == [
        ("u1", "b", 0),
        ("u1", "a", 1),
        ("u1", "b", 2),
        ("u2", "a", 0),
    ]
    assert store.report.skipped == {
        "people: no item in their line": 1,
        "interactions: `item_id` is not in `items`": 1,
    }


def test_no_pictures(folder):
    with pytest.raises(ValueError, match=r"`pictures_only` .*this data set has none"):
        build_store(read_sequences(folder), min_events=0, pictures_only=True)


def test_items_without_an_id(folder):
    (folder / "items.jsonl").write_text('{"title": "a"}\n')
    with pytest.raises(ValueError, match=r"items\.jsonl` must have `asin`"):
        read_sequences(folder)


def test_nobody(folder):
    (folder / "user_sequence.txt").write_text("\n")
    with pytest.raises(ValueError, match="`interactions` is empty"):
        build_store(read_sequences(folder))
