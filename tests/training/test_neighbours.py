"""Which items people choose close together: by hand on a few events."""

import numpy as np
import pytest
from datasets import Dataset

from unimp.processing import Catalog, neighbours_unimp
from unimp.training.neighbours import find_neighbours


def make_train(*rows):
    return Dataset.from_dict({"user_id": [f"u{n}" for n in range(len(rows))], "item_id": [list(row) for row in rows]})


def find(*rows):
    catalog = Catalog.from_items([{"item_id": item_id} for item_id in "abcdef"])
    found = find_neighbours(make_train(*rows), catalog)
    catalog.set_neighbours(found)  # which it can keep
    lists = [slice(*found.starts[n : n + 2]) for n in range(len(catalog))]
    return [dict(zip(found.positions[own], found.weights[own], strict=True)) for own in lists]


def test_weights_by_hand():
    """
    a b c and, another person, d e: a and b, b and c, d and e stand together once, a and c, two steps apart, a half. Of
    7 (each pair in both directions), a has 1.5, b 2, c 1.5, d and e 1 each.
    """
    found = find("abc", "de")
    between = np.sqrt(11 * 11)  # each occurs once; and ten more
    assert found[0] == pytest.approx({1: (1 - 1.5 * 2 / 7) / between, 2: (0.5 - 1.5 * 1.5 / 7) / between})
    assert found[3] == pytest.approx({4: (1 - 1 / 7) / between})
    assert list(found[0]) == [1, 2]  # the heaviest first
    assert found[5] == {}


def test_how_often_items_occur_counts():
    """a b twice and a c: of 6, a has 3, b 2 and c 1."""
    found = find("ab", "ab", "ac")
    assert found[0] == pytest.approx({1: (2 - 3 * 2 / 6) / np.sqrt(13 * 12), 2: (1 - 3 * 1 / 6) / np.sqrt(13 * 11)})


def test_who_stands_together_by_chance_is_no_neighbour():
    """Of 18, a and b have 5 each: by chance they would stand together 1.4 times, and they do once."""
    found = find("ab", *["ac"] * 4, *["bd"] * 4)
    assert [set(own) for own in found] == [{2}, {3}, {0}, {1}, set(), set()]


def test_nothing_is_known_without_events():
    assert find("a", "b") == [{}] * 6
    assert find("aa") == [{}] * 6  # an item is no neighbour of its own


def test_the_heaviest_are_kept(monkeypatch):
    everything = find("abcd", "abde")
    monkeypatch.setattr(neighbours_unimp, "MOST_NEIGHBOURS", 1)
    for few, all_of_them in zip(find("abcd", "abde"), everything, strict=True):
        assert few == ({} if not all_of_them else {max(all_of_them, key=all_of_them.get): max(all_of_them.values())})
