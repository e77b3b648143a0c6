"""Recommenders that read a history in order: SASRec and BERT4Rec."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .data import Events, TrainingData, unit
from .neighbours import ItemKNN
from .stopping import BestState
from .transformer import ItemTransformer

# Epochs between two looks at validation, and how many looks in a row may bring nothing.
EVALUATE_EVERY, PATIENCE = 3, 4
WARM_UP_STEPS = 80
# Of the settings' rate, what is left of it at the end.
LEAST_RATE = 0.02

Batch = tuple[np.ndarray, np.ndarray]


@dataclass
class SequenceRanker:
    """What the two have in common: how histories are cut, batched and trained on.

    In every epoch each history is cut anew, at random, into windows; windows of like length share a batch.

    Attributes:
        width (`int`): size of the embeddings.
        layers (`int`): of the transformer.
        heads (`int`): of its attention.
        dropout (`float`): of the embeddings and of what each layer adds.
        learning_rate (`float`): highest of AdamW, after a warm-up and before a cosine to almost 0.
        weight_decay (`float`): of matrices.
        epochs (`int`): at most; it ends before where validation gets no better.
        window (`int`): longest history read.
        batch_tokens (`int`): items in a batch, about.
    """

    SCORING_SETTINGS = ()
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    epochs: int = 30
    window: int = 50
    batch_tokens: int = 3200

    def fit(self, data: TrainingData, validate: Callable[[], float] | None = None, seed: int = 0) -> None:
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        self.num_items = data.num_items
        sizes = (self.width, self.layers, self.heads, self.dropout, self.window)
        self.network = ItemTransformer(data.num_items, *sizes)
        steps = self.epochs * sum(1 for _ in self._batches(data.events, rng))
        optimizer, schedule = self._optimizer(steps)
        best = BestState(self.network, validate, PATIENCE)
        for epoch in range(self.epochs):
            self.network.train()
            for batch in self._batches(data.events, rng):
                self._step(data.events, batch, rng, optimizer)
                schedule.step()
            if (epoch + 1) % EVALUATE_EVERY == 0 and best.stop():
                break
        best.restore()

    def _optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        parameters = list(self.network.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98))
        warm_up = min(WARM_UP_STEPS, max(1, steps // 10))
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _rate(s, warm_up, steps))

    def _step(self, events: Events, batch: Batch, rng: np.random.Generator, optimizer: torch.optim.Optimizer) -> None:
        loss = self._loss(events, *batch, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        optimizer.step()

    def _loss(self, events: Events, start: np.ndarray, stop: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """The loss of windows, given by where each starts and stops in `events.items`, both `(batch_size,)`."""
        raise NotImplementedError

    def _batches(self, events: Events, rng: np.random.Generator) -> Iterator[Batch]:
        start, stop = cut_windows(events, self.window, rng)
        order = np.argsort(stop - start + rng.random(len(start)))
        batches, first = [], 0
        lengths = (stop - start)[order]
        while first < len(order):
            count = 1  # a batch is as wide as its last, longest window
            while first + count < len(order) and (count + 1) * lengths[first + count] <= self.batch_tokens:
                count += 1
            batches.append(order[first : first + count])
            first += count
        for number in rng.permutation(len(batches)):
            yield start[batches[number]], stop[batches[number]]

    def _inputs(self, items: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows side by side, padded on the right with `num_items`, and which places are items."""
        place = start[:, None] + np.arange(max(1, (stop - start).max()))
        real = place < stop[:, None]
        return np.where(real, items.take(place, mode="clip") if len(items) else 0, self.num_items), real


def _rate(step: int, warm_up: int, steps: int) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return LEAST_RATE + (1 - LEAST_RATE) * (1 + math.cos(math.pi * min(1, step / steps))) / 2


def cut_windows(events: Events, window: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every row cut into pieces of `window` events, the first and the last of which may be shorter; where to cut the
    first is drawn. Rows of one event are left out: nothing comes next.

    Returns:
        Where each piece starts and stops in `events.items`.
    """
    starts, stops = [], []
    for low, high in zip(events.offsets[:-1], events.offsets[1:], strict=True):
        if high - low > 1:
            first = low + rng.integers(1, window + 1) if high - low > window else high
            cuts = np.concatenate([[low], np.arange(first, high, window), [high]])
            starts.append(cuts[:-1])
            stops.append(cuts[1:])
    if not starts:
        raise ValueError("`events` has no user of two events, but got nothing else to learn an order from.")
    return np.concatenate(starts), np.concatenate(stops)


@dataclass
class SASRec(SequenceRanker):
    """A causal transformer that predicts what comes next at every place (Kang and McAuley, 2018, arXiv:1808.09781).

    Not as in the paper: cross-entropy over all items, as it is known to be much stronger than one sampled negative.

    Attributes:
        loss_weights (`tuple[float, ...]`): of the next item, the one after it, ... : each place predicts them all
            with the same output.
    """

    loss_weights: tuple[float, ...] = (1.0,)

    def _loss(self, events: Events, start: np.ndarray, stop: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        end = events.offsets[np.searchsorted(events.offsets, start, side="right")]  # of the row, not of the window
        # Nothing comes after a row's last item. Read, it would take the last place, which every request asks in, and
        # which short rows would then never train.
        stop = np.minimum(stop, end - 1)
        start, stop, end = (places[stop > start] for places in (start, stop, end))
        items, real = self._inputs(events.items, start, stop)
        hidden = self.network(torch.from_numpy(items), torch.from_numpy(real), causal=True)
        targets, weights = self._targets(events.items, start, end, items.shape[1])
        kept = real & (weights[..., 0] > 0)
        return self.network.loss(
            hidden[torch.from_numpy(kept)], torch.from_numpy(targets[kept]), torch.from_numpy(weights[kept])
        )

    def _targets(
        self, items: np.ndarray, start: np.ndarray, end: np.ndarray, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What each place predicts and the weights, both `(batch_size, length, len(loss_weights))`; 0 after `end`."""
        place = start[:, None, None] + np.arange(length)[:, None] + 1 + np.arange(len(self.loss_weights))
        weights = np.where(place < end[:, None, None], np.float32(self.loss_weights), np.float32(0))
        return items.take(place, mode="clip"), weights

    @torch.no_grad()
    def score(self, histories: Events) -> np.ndarray:
        self.network.eval()
        stop = histories.offsets[1:]
        start = np.maximum(histories.offsets[:-1], stop - self.window)
        items, real = self._inputs(histories.items, start, stop)
        hidden = self.network(torch.from_numpy(items), torch.from_numpy(real), causal=True)
        last = torch.from_numpy(np.maximum(real.sum(1) - 1, 0))
        return self.network.logits(hidden[torch.arange(len(last)), last]).numpy()


@dataclass
class SASRecHybrid(SASRec):
    """SASRec, and beside its scores what UniMP has beside its network: how like the history each item's text is, and
    who chose it together with the history's items. Both are added afterwards, their weights tuned on validation.

    Attributes:
        similarity (`float`): weight of the cosines, of deviations from the items' mean, summed over the history.
        decay (`float`): of the older ones' cosines, as in [`ContentKNN`].
        neighbours (`float`): weight of the scores of [`ItemKNN`].
    """

    SCORING_SETTINGS = ("similarity", "decay", "neighbours")
    similarity: float = 2.0
    decay: float = 0.6
    neighbours: float = 0.0

    def fit(self, data: TrainingData, validate: Callable[[], float] | None = None, seed: int = 0) -> None:
        features = np.asarray(data.features["text"], np.float32)
        known = features.any(axis=1, keepdims=True)
        self.directions = unit(features - features.sum(axis=0) / max(1, known.sum())) * known
        self.item_knn = ItemKNN(neighbours=200, shrink=10.0, decay=0.7)
        self.item_knn.fit(data)
        super().fit(data, validate, seed)

    def score(self, histories: Events) -> np.ndarray:
        likeness = (histories.matrix(self.num_items, self.decay) @ self.directions) @ self.directions.T
        return super().score(histories) + self.similarity * likeness + self.neighbours * self.item_knn.score(histories)


@dataclass
class BERT4Rec(SequenceRanker):
    """A transformer that fills in hidden items from both sides (Sun et al., 2019, arXiv:1904.06690).

    Asked for the next item, it is shown the history with a hidden item at its end.

    Attributes:
        hidden_share (`float`): of the items in training; at least one a window.
    """

    hidden_share: float = 0.2

    def _loss(self, events: Events, start: np.ndarray, stop: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        items, real = self._inputs(events.items, start, stop)
        chance = np.where(real, rng.random(items.shape), 2.0)
        asked = (chance < self.hidden_share) | (chance == chance.min(1, keepdims=True))
        hidden = self._read(np.where(asked, self.num_items, items), real)
        targets = torch.from_numpy(items[asked])[:, None]
        return self.network.loss(hidden[torch.from_numpy(asked)], targets, torch.ones(targets.shape))

    def _read(self, items: np.ndarray, real: np.ndarray) -> torch.Tensor:
        return self.network(torch.from_numpy(items), torch.from_numpy(real), causal=False)

    @torch.no_grad()
    def score(self, histories: Events) -> np.ndarray:
        self.network.eval()
        stop = histories.offsets[1:]
        start = np.maximum(histories.offsets[:-1], stop - self.window + 1)
        items, real = self._inputs(histories.items, start, stop)
        last = real.sum(1)
        # One place more, for the item to come: the first padding, which is numbered as a hidden item is.
        items = np.pad(items, ((0, 0), (0, 1)), constant_values=self.num_items)
        hidden = self._read(items, np.arange(items.shape[1]) <= last[:, None])
        return self.network.logits(hidden[torch.arange(len(last)), torch.from_numpy(last)]).numpy()
