"""Which items are chosen together, as a catalogue keeps it."""

import numpy as np
import pyarrow as pa
import pytest

from unimp import Catalog
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
    catalog.replace([{"item_id": "a", "title": "new"}])
    catalog.remove(["c"])
    assert rows_of(catalog.neighbours) == [*rows_of(KNOWN), {}]
    assert catalog.neighbours.similarity([3, 0]).tolist() == [0, 0.5, 0.25, 0]
    catalog.set_neighbours(None)
    assert catalog.neighbours is None
    assert "neighbours" not in catalog.table.column_names


def test_what_is_not_known_anew_stays_as_it_was():
    anew = make_neighbours({3: 2.0}, {0: 3.0}, {}, {})  # of one item more
    assert rows_of(anew.or_those_of(KNOWN)) == [{3: 2.0}, {0: 3.0}, {0: 1.0}, {}]
    assert anew.or_those_of(None) is anew


def test_another_column_of_this_name_is_refused():
    with pytest.raises(ValueError, match=r"`neighbours` must be .*, got string: rename this attribute"):
        Catalog.from_items([{"item_id": "a", "neighbours": "loud"}])
    table = Catalog.from_items([{"item_id": "a"}]).table
    with pytest.raises(ValueError, match="`neighbours` must be positions of the 1 items: leave the column out"):
        Catalog(table.append_column("neighbours", make_neighbours({1: 0.5}).column()))
    missing = Catalog(table.append_column("neighbours", pa.nulls(1, make_neighbours({}).column().type)))
    assert rows_of(missing.neighbours) == [{}]
