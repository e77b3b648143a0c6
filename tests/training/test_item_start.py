"""Where items start: by hand on a few events, and that what is not known stays as it was."""

import pytest
import torch
from datasets import Dataset

from unimp import UniMPConfig
from unimp.processing import Catalog
from unimp.training.item_start import _mutual_information, cooccurrence_rows, pair_counts
from unimp.training.recipe import _mean_rows


def make_train(*rows):
    return Dataset.from_dict({"user_id": [f"u{n}" for n in range(len(rows))], "item_id": [list(row) for row in rows]})


@pytest.fixture
def catalog():
    return Catalog.from_items([{"item_id": item_id} for item_id in "abcdef"])


def test_pairs_by_hand(catalog):
    """a b c and, another person, c a: neighbours count 1, two steps apart 1/2; nothing between people."""
    counts = pair_counts(make_train("abc", "ca"), catalog).to_dense()
    expected = torch.zeros(6, 6)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = 1
    expected[0, 2] = expected[2, 0] = 0.5 + 1
    torch.testing.assert_close(counts, expected)


def test_information_by_hand():
    """a and b stand together twice, b and c once: log of the count over what their totals would give."""
    counts = torch.tensor([[0.0, 2, 0], [2, 0, 1], [0, 1, 0]]).to_sparse_coo()
    totals = torch.tensor([2.0, 3, 1])
    context = totals**0.75 / (totals**0.75).sum()
    expected = torch.log(counts.to_dense() / (totals[:, None] * context)).clamp(min=0)
    torch.testing.assert_close(_mutual_information(counts.coalesce()).to_dense(), expected)


def test_items_of_the_same_people_start_alike(catalog):
    train = make_train(*["abc", "bca", "cab"] * 5, *["de", "ed"] * 5)
    rows = cooccurrence_rows(train, catalog, 4)
    assert rows.shape == (6, 4)
    alike = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    assert alike[0, 1:3].min() > 0.1
    assert alike[:3, 3:5].abs().max() < 0.01
    assert not rows[5].any()  # nobody chose it
    assert rows[:5].square().mean().sqrt() == pytest.approx(1, abs=1e-3)


def test_the_start_is_the_same_and_draws_nothing_from_training(catalog):
    train = make_train("abcd", "bcde")
    torch.manual_seed(1)
    first, drawn = cooccurrence_rows(train, catalog, 4), torch.rand(3)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.rand(3), drawn)
    torch.manual_seed(2)
    torch.testing.assert_close(cooccurrence_rows(train, catalog, 4), first, rtol=0, atol=0)


def test_people_of_one_event_tell_nothing(catalog):
    assert not cooccurrence_rows(make_train("a", "b"), catalog, 4).any()


def test_items_that_stand_apart_are_left_to_chance():
    """Of pairs that stand by themselves nothing is in the eight directions of eight groups; rounding is left."""
    groups = [[f"{group}-{number}" for number in range(8)] for group in range(8)]
    pairs = [[f"left-{number}", f"right-{number}"] for number in range(20)]
    catalog = Catalog.from_items([{"item_id": item_id} for row in (*groups, *pairs) for item_id in row])
    turned = [group[start:] + group[:start] for group in groups for start in range(8)]
    rows = cooccurrence_rows(make_train(*turned, *pairs), catalog, 8)
    assert rows[:64].any(dim=-1).all()
    assert not rows[64:].any()
    assert rows[:64].square().mean().sqrt() == pytest.approx(1, abs=1e-3)


def test_of_people_of_one_event_semantic_codes_start_at_random(catalog):
    config = UniMPConfig(code_sizes=[2, 4])
    rows = _mean_rows(torch.zeros(6, 4), torch.zeros(6, 2, dtype=torch.int32), config)
    assert rows.shape == (config.num_code_rows, 4)
    assert not rows.any()
