"""LLMRec's release of Netflix."""

import json
import pickle

import pytest

from unimp.processing.loaders.netflix import read_netflix
from unimp.processing.loaders.prepare import build_store

from .conftest import put_picture, rows_of

ITEMS = '0,2003.0,Dinosaur Planet\n1,2004,"Isle of Man TT, Review"\n2,NaN,Am\xe9lie, the film\n3,soon,\n4,1e30,\n'


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.fixture
def folder(raw):
    (raw / "item_attribute.csv").write_bytes(ITEMS.encode("latin-1"))
    (raw / "train.json").write_text(json.dumps({"0": [2, 0], "1": [1], "2": []}))
    (raw / "val.json").write_text(json.dumps({"0": [1]}))
    (raw / "test.json").write_text(json.dumps({"1": [0, 7]}))
    for name in ("train_mat", "val_mat", "test_mat"):
        (raw / name).write_bytes(pickle.dumps(Bomb()))
    put_picture(raw / "Netflix_Posters" / "0.jpg")
    return raw


def test_netflix(folder):
    store = build_store(read_netflix(folder), min_events=0)
    assert rows_of(store.items, "item_id", "title", "year") == [
        ("0", "Dinosaur Planet", 2003),
        ("1", "Isle of Man TT, Review", 2004),
        ("2", "Amélie, the film", None),
        ("3", None, None),
        ("4", None, None),
    ]
    assert [picture is not None for picture in store.items["image"]] == [True, False, False, False, False]
    assert rows_of(store.interactions, "user_id", "item_id", "timestamp") == [
        ("0", "2", 0),
        ("0", "0", 1),
        ("0", "1", 2),
        ("1", "1", 0),
        ("1", "0", 1),
    ]
    assert store.report.skipped == {"interactions: `item_id` is not in `items`": 1}
    assert store.report.changed == {"items: `year` is no year and is now missing": 2}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.json", "oops", r"train\.json` is not JSON"),
        ("val.json", "[1]", r"val\.json` must be an object of person"),
        ("test.json", '{"0": 1}', r"test\.json` must be an object of person"),
        ("item_attribute.csv", "0,2003\n", r"item_attribute\.csv:1` must be an id, a year and a title"),
    ],
)
def test_unreadable_files(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_netflix(folder)
