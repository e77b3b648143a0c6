"""Which items are chosen together, as a catalogue keeps it."""

import numpy as np
import pyarrow as pa
import pytest

from unimp import Catalog
from unimp.processing import neighbours_unimp
from unimp.processing.neighbours_unimp import Neighbours


def make_neighbours(*rows):
    """Of each item a dictionary of its neighbours' weights."""
    starts = np.cumsum([0, *map(len, rows)])
    positions = np.array([position for row in rows for position in row], dtype=np.int64)
    return Neighbours(starts, positions, np.array([row[p] for row in rows for p in row], dtype=np.float32))


def rows_of(neighbours):
    pairs = zip(neighbours.positions.tolist(), neighbours.weights.tolist(), strict=True)
    pairs = list(pairs)
    return [dict(pairs[start:end]) for start, end in zip(neighbours.starts, neighbours.starts[1:], strict=False)]


KNOWN = make_neighbours({1: 0.5, 2: 0.25}, {}, {0: 1.0})


@pytest.fixture
def catalog():
    catalog = Catalog.from_items([{"item_id": item_id, "title": item_id} for item_id in "abc"])
    catalog.set_neighbours(KNOWN)
    return catalog


def test_hand_computed_similarities():
    np.testing.assert_allclose(KNOWN.similarity([0]), [0, 0.5, 0.25])
    np.testing.assert_allclose(KNOWN.similarity([0, 2]), [1, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(KNOWN.similarity([0, -1, 1]), [0, 0.32, 0.16], rtol=1e-6)  # -1: another item
    shared = make_neighbours({1: 0.5}, {}, {1: 1.0})
    np.testing.assert_allclose(shared.similarity([0, 0, 2]), [0, 1 + 0.5 * (0.8 + 0.64), 0], rtol=1e-6)
    assert KNOWN.similarity([0, *[1] * 19]).any()
    assert not KNOWN.similarity([0, *[1] * 20]).any()  # too long ago
    assert KNOWN.similarity([]).tolist() == [0, 0, 0]
    assert KNOWN.similarity([]).dtype == np.float32


def test_a_catalogue_keeps_them(catalog, tmp_path):
    catalog.save(tmp_path / "catalog.parquet")
    catalog = Catalog.load(tmp_path / "catalog.parquet")
    assert rows_of(catalog.neighbours) == rows_of(KNOWN)
    assert catalog.attribute_names == ["title"]
    catalog.add([{"item_id": "d", "neighbours": [{"position": 0, "weight": 9.0}]}])  # not theirs to say
    assert rows_of(catalog.neighbours) == [*rows_of(KNOWN), {}]
    catalog.set_codes(np.array([[1, 0], [1, 1], [2, 0], [2, 1]]))
    catalog.replace([{"item_id": "a", "title": "new"}])
    assert catalog.codes.tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    catalog.remove(["c"])
    assert rows_of(catalog.neighbours) == [*rows_of(KNOWN), {}]
    assert catalog.neighbours.similarity([3, 0]).tolist() == [0, 0.5, 0.25, 0]
    catalog.set_neighbours(None)
    assert catalog.neighbours is None
    assert "neighbours" not in catalog.table.column_names


def test_of_two_the_heavier_pairs_stay(monkeypatch):
    anew = make_neighbours({3: 2.0, 2: 0.125}, {0: 3.0}, {0: 4.0}, {})  # of one item more
    merged = anew.merged(KNOWN)
    assert rows_of(merged) == [{3: 2.0, 1: 0.5, 2: 0.25}, {0: 3.0}, {0: 4.0}, {}]
    assert merged.positions.tolist()[:3] == [3, 1, 2]
    monkeypatch.setattr(neighbours_unimp, "MOST_NEIGHBOURS", 2)
    assert rows_of(anew.merged(KNOWN))[0] == {3: 2.0, 1: 0.5}
    nothing = make_neighbours({}, {}, {})
    assert rows_of(nothing.merged(nothing)) == [{}, {}, {}]


def test_pairs_may_come_in_any_order():
    owners, positions = np.array([2, 0, 2, 0, 2, 0]), np.array([1, 3, 0, 1, 1, 2])
    found = Neighbours.heaviest(owners, positions, np.array([1, 2, 5, 2, 4, 3], dtype=np.float32), 4)
    assert rows_of(found) == [{2: 3, 1: 2, 3: 2}, {}, {0: 5, 1: 4}, {}]
    assert found.positions.tolist() == [2, 1, 3, 0, 1]  # the heaviest first, of equals the earlier item


def test_a_table_that_was_read_otherwise_is_the_same(catalog):
    again = Catalog(pa.Table.from_pylist(catalog.table.to_pylist()))
    assert rows_of(again.neighbours) == rows_of(KNOWN)


def test_another_column_of_this_name_is_refused():
    with pytest.raises(ValueError, match=r"`neighbours` must be .*, got string: rename this attribute, or leave"):
        Catalog.from_items([{"item_id": "a", "neighbours": "loud"}])
    table = Catalog.from_items([{"item_id": "a"}]).table
    with pytest.raises(ValueError, match="`neighbours` must be positions of the 1 items: leave the column out"):
        Catalog(table.append_column("neighbours", make_neighbours({1: 0.5}).column()))
    for kind in (make_neighbours({}).column().type, pa.null()):
        assert rows_of(Catalog(table.append_column("neighbours", pa.nulls(1, kind))).neighbours) == [{}]
