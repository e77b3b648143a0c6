"""The trie of item codes, and which items an answer may name."""

import pytest
import torch

from unimp.modeling_unimp import trie_unimp
from unimp.modeling_unimp.trie_unimp import AllowedItems, ItemTrie

# Five items in no order; in the order of their codes they are items 3, 1, 4, 0, 2.
CODES = torch.tensor([[2, 0, 1], [0, 1, 0], [2, 3, 0], [0, 0, 5], [2, 0, 0]], dtype=torch.int32)


def random_codes(items=200, sizes=(4, 5, 20), seed=0):
    """Distinct codes that leave many of the possible ones out."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.tensor(sizes).prod().item()
    numbers = torch.randperm(total, generator=generator)[:items]
    return torch.stack(torch.unravel_index(numbers, sizes), dim=-1).int()


def test_a_trie_by_hand():
    trie = ItemTrie(CODES)
    assert (trie.num_items, trie.num_levels) == (5, 3)
    assert trie.item_of_leaf.tolist() == [3, 1, 4, 0, 2]
    assert trie.leaf_of_item.tolist() == [3, 1, 4, 0, 2]
    assert [codes.tolist() for codes in trie.codes] == [[0, 2], [0, 1, 0, 3], [5, 0, 0, 1, 0]]
    assert [first.tolist() for first in trie.first_child] == [[0, 2, 4], [0, 1, 2, 4, 5]]
    assert [first.tolist() for first in trie.first_leaf] == [[0, 2, 5], [0, 1, 2, 4, 5]]
    assert trie.max_children == [2, 2, 2]


def test_children_leaves_and_nodes_above_by_hand():
    trie = ItemTrie(CODES)
    children, exist = trie.children(2, torch.tensor([[2, 0]]))
    assert children[exist].tolist() == [2, 3, 0]
    assert exist.tolist() == [[[True, True], [True, False]]]
    assert [bound.tolist() for bound in trie.leaves_below(0, torch.tensor([0, 1]))] == [[0, 2], [2, 5]]
    assert [bound.tolist() for bound in trie.leaves_below(2, torch.tensor([0, 4]))] == [[0, 4], [1, 5]]
    leaves = torch.arange(5, dtype=torch.int32)
    assert [trie.node_above(level, leaves).tolist() for level in range(3)] == [
        [0, 0, 1, 1, 1],
        [0, 1, 2, 2, 3],
        [0, 1, 2, 3, 4],
    ]


def test_a_walk_down_every_branch_meets_every_item_once():
    codes = random_codes()
    trie = ItemTrie(codes)
    met = []

    def walk(level, node, path):
        path = [*path, trie.codes[level][node].item()]
        first, end = (bound.item() for bound in trie.leaves_below(level, torch.tensor(node)))
        below = codes[trie.item_of_leaf[first:end].long()]
        assert (below[:, : level + 1] == torch.tensor(path)).all()
        if level == 2:
            met.append((trie.item_of_leaf[node].item(), path))
            return
        children, exist = trie.children(level + 1, torch.tensor([node]))
        for child in children[exist].tolist():
            walk(level + 1, child, path)

    for node in range(len(trie.codes[0])):
        walk(0, node, [])
    assert sorted(item for item, _ in met) == list(range(len(codes)))
    assert all(codes[item].tolist() == path for item, path in met)
    assert [path for _, path in met] == sorted(codes.tolist())


def test_one_level_is_the_same_trie():
    trie = ItemTrie(torch.arange(4)[:, None])
    assert trie.codes[0].tolist() == trie.item_of_leaf.tolist() == [0, 1, 2, 3]
    assert trie.first_child == trie.first_leaf == []
    assert trie.max_children == [4]


def test_a_trie_of_nothing_and_of_one():
    assert ItemTrie(torch.empty(0, 3, dtype=torch.int32)).num_items == 0
    trie = ItemTrie(torch.tensor([[7, 0, 3]]))
    assert [codes.tolist() for codes in trie.codes] == [[7], [0], [3]]


def test_the_same_codes_twice_are_refused():
    with pytest.raises(ValueError, match=r"`codes`.*items 0 and 3 have the same, \[2, 0, 1\]"):
        ItemTrie(torch.cat([CODES[:3], CODES[:1]]))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_memory_an_item_stays_small(levels):
    codes = torch.arange(1000)[:, None].repeat(1, levels)  # no item shares any code with another: the largest trie
    assert ItemTrie(codes).num_bytes < 64 * 1000


def naive_below(codes, prefix, allowed):
    return any(codes[item].tolist()[: len(prefix)] == prefix for item in allowed)


@pytest.mark.parametrize("share", [0, 10**6], ids=["sorted", "counted"])
@pytest.mark.parametrize("only", [False, True], ids=["exclude", "candidates"])
def test_what_lies_below_a_node(only, share, monkeypatch):
    monkeypatch.setattr(trie_unimp, "SORTED_SHARE", share)
    codes = random_codes()
    trie = ItemTrie(codes)
    exclude = torch.randint(-1, 200, (2, 500), generator=torch.Generator().manual_seed(1))  # with repeats and padding
    candidates = torch.randint(-1, 200, (2, 60), generator=torch.Generator().manual_seed(2)) if only else None
    allowed = AllowedItems(trie, 2, exclude, candidates)
    assert (allowed.leaves is None) == (share > 0)
    for row in range(2):
        items = set(range(200)) - set(exclude[row].tolist())
        if only:
            items &= set(candidates[row].tolist())
        assert 0 < len(items) < 200
        for level in range(3):
            nodes = torch.arange(len(trie.codes[level]), dtype=torch.int32)
            below = allowed.below(level, nodes.expand(2, -1))[row]
            first, _ = trie.leaves_below(level, nodes)
            prefixes = codes[trie.item_of_leaf[first].long(), : level + 1].tolist()
            assert below.tolist() == [naive_below(codes, prefix, items) for prefix in prefixes]
            assert 0 < below.sum() < len(nodes) or level == 0


def test_nothing_is_excluded_by_default():
    assert AllowedItems(ItemTrie(CODES), 2).below(1, torch.arange(4, dtype=torch.int32).expand(2, -1)).all()


def test_what_is_listed_is_sorted_in_a_large_catalogue_and_counted_in_a_small_one():
    large = ItemTrie(torch.arange(1000)[:, None])
    assert AllowedItems(large, 1, exclude=torch.tensor([[5, 7]])).leaves.tolist() == [[5, 7, 1000]]
    assert AllowedItems(large, 1, exclude=torch.arange(900)[None]).allowed_before[0, -1] == 100
    assert AllowedItems(large, 1, candidates=torch.arange(900)[None]).allowed_before[0, -1] == 900


@pytest.mark.parametrize(
    "items",
    [torch.zeros(2, 5, dtype=torch.bool), torch.zeros(3, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long)],
    ids=["mask", "batch", "shape"],
)
@pytest.mark.parametrize("name", ["exclude", "candidates"])
def test_what_are_no_positions_of_each_sample_is_refused(name, items):
    with pytest.raises(ValueError, match=f"`{name}` must be positions"):
        AllowedItems(ItemTrie(CODES), 2, **{name: items})
