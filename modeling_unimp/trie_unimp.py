"""The catalogue's item codes as a trie of flat tensors, and which of its items an answer may name."""

import torch


def check_positions(name: str, items: torch.Tensor, num_items: int, lowest: int = -1) -> None:
    """Raises `ValueError` where `items` holds what is no position in the catalogue; -1 may be padding."""
    if not items.numel():
        return
    low, high = torch.stack(items.aminmax()).tolist()
    if low < lowest or high >= num_items:
        padded = ", padded with -1" if lowest else ""
        raise ValueError(
            f"`{name}` must be positions in a catalogue of {num_items} items{padded}, got "
            f"{low if low < lowest else high}."
        )


# Up to this share of the catalogue (one in so many), listed items are sorted rather than counted through.
SORTED_SHARE = 128


class ItemTrie:
    """
    A trie over item codes: a few integers a node, and every step of decoding is a look-up for all beams at once.

    Its leaves are the items in the order of their codes. The nodes of level `l` are the distinct beginnings of
    `l + 1` codes, in the same order, so that the children of a node lie side by side, and so do the leaves below it.

    Args:
        codes (`torch.Tensor` of shape `(items, levels)`): the codes of every item, one a level, each from 0.

    Attributes:
        codes: per level, the code of every node, `[nodes]`.
        first_child: per level but the last, the first child of every node among the nodes of the next level, and at
            the end the number of those, `[nodes + 1]`.
        first_leaf: per level but the last, the first leaf below every node and at the end the number of leaves,
            `[nodes + 1]`; the nodes of the last level are the leaves.
        item_of_leaf, leaf_of_item: position in the catalogue of every leaf, and the other way round, `[items]`.
        max_children: per level, the most children of a node one level above (`int`).

    All tensors are int32, on the device of `codes`: at most `12 * levels` bytes an item, 48 with four levels.

    Raises:
        `ValueError`: two items have the same codes.
    """

    def __init__(self, codes: torch.Tensor) -> None:
        order = torch.arange(len(codes), device=codes.device)
        for level in reversed(range(codes.shape[1])):  # stable, so the first level decides and the last comes last
            order = order[codes[order, level].argsort(stable=True)]
        self.item_of_leaf = order.int()
        self.leaf_of_item = torch.empty_like(self.item_of_leaf)
        self.leaf_of_item[order] = torch.arange(len(order), dtype=torch.int32, device=codes.device)
        self.codes: list[torch.Tensor] = []
        self.first_leaf: list[torch.Tensor] = []
        differs = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
        differs[:1] = True
        for level in range(codes.shape[1]):
            in_order = codes[order, level]
            differs[1:] |= in_order[1:] != in_order[:-1]
            first = differs.nonzero()[:, 0]
            self.codes.append(in_order[first].int())
            self.first_leaf.append(torch.nn.functional.pad(first, (0, 1), value=len(codes)).int())
        if len(self.codes[-1]) < len(codes):
            leaf = int((~differs).nonzero()[0, 0])
            items = self.item_of_leaf[leaf - 1 : leaf + 1].tolist()
            raise ValueError(
                f"`codes` must differ from item to item, but items {items[0]} and {items[1]} have the same, "
                f"{codes[items[0]].tolist()}: the last level has to tell them apart."
            )
        # The n-th node of a level begins at a leaf where also one of the next level's begins: its first child.
        self.first_child = [
            torch.searchsorted(below, first).int()
            for first, below in zip(self.first_leaf[:-1], self.first_leaf[1:], strict=True)
        ]
        self.first_leaf.pop()
        self.max_children = [len(self.codes[0])] + [
            int(first.diff().max()) if len(codes) else 0 for first in self.first_child
        ]

    @property
    def num_items(self) -> int:
        """How many items, which is how many leaves."""
        return len(self.item_of_leaf)

    @property
    def num_levels(self) -> int:
        """How many codes an item has."""
        return len(self.codes)

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors."""
        tensors = (*self.codes, *self.first_child, *self.first_leaf, self.item_of_leaf, self.leaf_of_item)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def children(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The nodes of `level` below the `nodes` `[...]` of the level above, and which of them there are, both
        `[..., max_children[level]]`: nodes have different numbers of children.
        """
        first = self.first_child[level - 1]
        number = torch.arange(self.max_children[level], dtype=torch.int32, device=nodes.device)
        children = first[nodes][..., None] + number
        exists = children < first[nodes + 1][..., None]
        return children.where(exists, 0), exists

    def leaves_below(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The leaves below nodes of `level`, as the first of them and the first that is not, both as `nodes`."""
        if level == self.num_levels - 1:
            return nodes, nodes + 1
        return self.first_leaf[level][nodes], self.first_leaf[level][nodes + 1]

    def node_above(self, level: int, leaves: torch.Tensor) -> torch.Tensor:
        """The node of `level` that each of `leaves` lies below, in their shape."""
        if level == self.num_levels - 1:
            return leaves
        return torch.searchsorted(self.first_leaf[level][1:], leaves, right=True, out_int32=True)


class AllowedItems:
    """
    The items that each sample of a batch may be given, as leaves of a trie. How many of them lie below a node is known
    from two look-ups, so that no beam is spent on a node with none of them.

    A few items are kept as a sorted list, which costs nothing for a large catalogue; where much of the catalogue is
    listed, sorting would cost more than to count through all of it.

    Args:
        trie ([`ItemTrie`]): the catalogue.
        batch_size (`int`): samples.
        exclude (`torch.LongTensor` of shape `(batch, n)`, *optional*): positions in the catalogue that must not be
            given, padded with -1.
        candidates (`torch.LongTensor` of shape `(batch, n)`, *optional*): the only positions that may be given, padded
            with -1; all by default.

    Attributes:
        leaves: `[batch, n]`, n at least 1, int32: sorted, none twice, padded with the number of leaves; `None` where
            they are counted instead.
        listed_only: whether these leaves are the only ones allowed; otherwise they are the ones that are not.
        allowed_before: `[batch, items + 1]`, int32, how many allowed leaves come before each one; `None` for a list.
    """

    def __init__(
        self,
        trie: ItemTrie,
        batch_size: int,
        exclude: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
    ) -> None:
        self.trie = trie
        self.listed_only = candidates is not None
        self.leaves = self.allowed_before = None
        excluded = self._leaves_of("exclude", exclude, batch_size)
        offered = self._leaves_of("candidates", candidates, batch_size)
        if trie.num_items < SORTED_SHARE * (excluded.shape[1] + offered.shape[1] - 2):
            self._count_through(excluded, offered)
        else:
            self._sort(excluded, offered)

    def _leaves_of(self, name: str, items: torch.Tensor | None, batch_size: int) -> torch.Tensor:
        """Leaves of `items`, int32, with a column of padding behind them."""
        device, num_items = self.trie.leaf_of_item.device, self.trie.num_items
        if items is None:
            items = torch.empty(batch_size, 0, dtype=torch.long, device=device)
        if items.dtype != torch.long or items.ndim != 2 or len(items) != batch_size:
            raise ValueError(
                f"`{name}` must be positions in the catalogue, padded with -1: a LongTensor of shape "
                f"({batch_size}, n), got {str(items.dtype).removeprefix('torch.')} of shape {tuple(items.shape)}."
            )
        check_positions(name, items, num_items)
        items = items.to(device)
        leaves = self.trie.leaf_of_item[items.clamp(min=0)].masked_fill(items < 0, num_items)
        return torch.nn.functional.pad(leaves, (0, 1), value=num_items)

    def _sort(self, excluded: torch.Tensor, offered: torch.Tensor) -> None:
        excluded = self._distinct(excluded)
        self.leaves = excluded
        if self.listed_only:
            offered = self._distinct(offered)
            nearest = torch.searchsorted(excluded, offered).clamp(max=excluded.shape[1] - 1)
            offered = offered.masked_fill(excluded.gather(1, nearest) == offered, self.trie.num_items)
            self.leaves = offered.sort(-1).values

    def _distinct(self, leaves: torch.Tensor) -> torch.Tensor:
        leaves = leaves.sort(-1).values
        again = torch.nn.functional.pad(leaves[:, 1:] == leaves[:, :-1], (1, 0))
        return leaves.masked_fill(again, self.trie.num_items).sort(-1).values

    def _count_through(self, excluded: torch.Tensor, offered: torch.Tensor) -> None:
        shape, device = (len(excluded), self.trie.num_items + 1), excluded.device
        allowed = torch.full(shape, not self.listed_only, dtype=torch.bool, device=device)
        if self.listed_only:
            allowed.scatter_(1, offered.long(), True)
        allowed.scatter_(1, excluded.long(), False)
        self.allowed_before = torch.zeros(shape, dtype=torch.int32, device=device)
        torch.cumsum(allowed[:, :-1], dim=-1, dtype=torch.int32, out=self.allowed_before[:, 1:])

    def count(self, first: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """How many allowed leaves lie from `first` to before `end`, both `[batch, n]`."""
        if self.leaves is None:
            return self.allowed_before.gather(1, end.long()) - self.allowed_before.gather(1, first.long())
        first, end = first.contiguous(), end.contiguous()
        listed = torch.searchsorted(self.leaves, end) - torch.searchsorted(self.leaves, first)
        return listed if self.listed_only else end - first - listed

    def below(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Whether an allowed leaf lies below nodes of `level`, in the shape of `nodes`, `[batch, ...]`."""
        first, end = (bound.flatten(1) for bound in self.trie.leaves_below(level, nodes))
        return (self.count(first, end) > 0).view_as(nodes)

    def first_level(self, log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Where decoding may begin.

        Args:
            log_probs (`torch.Tensor` of shape `(batch, codes)`): of the first level's codes; it may be changed.

        Returns:
            scores `[batch, n]`, `-inf` where no allowed item lies below, and the nodes `[batch, n]` that they belong
            to; `None` where these are simply all nodes. With one level `log_probs` has a column an item: beside a list
            nothing of that size is made.
        """
        codes = self.trie.codes[0]
        if self.leaves is not None and self.listed_only:
            nodes = self._listed_nodes()
            again = torch.nn.functional.pad(nodes[:, 1:] == nodes[:, :-1], (1, 0))
            scores = log_probs.gather(1, codes[nodes].long())
            # Padding comes last: it repeats the last node, or is on one with nothing below it that is allowed.
            return scores.masked_fill(again | ~self.below(0, nodes), -torch.inf), nodes
        if len(codes) < log_probs.shape[1]:  # some codes belong to no item
            log_probs = log_probs[:, codes]
        if self.leaves is None:
            nodes = torch.arange(len(codes), device=codes.device).expand(len(log_probs), -1)
            return log_probs.masked_fill_(~self.below(0, nodes), -torch.inf), None
        nodes = self._listed_nodes()
        closed = torch.zeros_like(nodes, dtype=log_probs.dtype).masked_fill(~self.below(0, nodes), -torch.inf)
        return log_probs.scatter_add_(1, nodes.long(), closed), None

    def _listed_nodes(self) -> torch.Tensor:
        """Nodes of the first level above the listed leaves, `[batch, n]`; the last one for padding."""
        return self.trie.node_above(0, self.leaves).clamp(max=len(self.trie.codes[0]) - 1)
