"""Recommenders that give every user a vector: BPR-MF, and VBPR, which adds what items look or read like."""

from collections.abc import Callable
from dataclasses import dataclass

import implicit.bpr
import numpy as np
import scipy.sparse
import torch
from torch import nn
from torch.nn import functional as F

from .data import Events, TrainingData
from .stopping import BestState


def user_vectors(vectors: np.ndarray, users: np.ndarray) -> np.ndarray:
    """A vector for each row: its user's, or the mean of all users' where the user is not in training (-1)."""
    return np.where(users[:, None] >= 0, vectors[users], vectors.mean(0))


@dataclass
class BPR:
    """Matrix factorisation that ranks what a user has above what others have (Rendle et al., 2009, arXiv:1205.2618).

    The library implicit's; its negatives are drawn by popularity.

    Attributes:
        width (`int`): size of the vectors.
        learning_rate (`float`): of plain stochastic gradient descent.
        regularization (`float`): of all vectors.
        epochs (`int`): passes over the events.
    """

    SCORING_SETTINGS = ()
    width: int = 64
    learning_rate: float = 0.05
    regularization: float = 0.01
    epochs: int = 100

    def fit(self, data: TrainingData, validate: Callable[[], float] | None = None, seed: int = 0) -> None:
        model = implicit.bpr.BayesianPersonalizedRanking(
            factors=self.width,
            learning_rate=self.learning_rate,
            regularization=self.regularization,
            iterations=self.epochs,
            num_threads=1,  # with more, two runs of one seed differ
            random_state=seed,
        )
        # A csr_matrix, because the library takes scipy's newer arrays for another format.
        model.fit(scipy.sparse.csr_matrix(data.binary_matrix()), show_progress=False)
        self.users, self.items = model.user_factors, model.item_factors
        self.items[data.popularity == 0] = 0  # never trained

    def score(self, histories: Events) -> np.ndarray:
        return user_vectors(self.users, histories.users) @ self.items.T


# Epochs between two looks at validation, and how many looks in a row may bring nothing.
EVALUATE_EVERY, PATIENCE = 5, 4


@dataclass
class VBPR:
    """BPR with a second vector of each user for the items' features (He and McAuley, 2016, arXiv:1510.01784).

    An item without training events is scored by its features alone.

    Attributes:
        kinds (`tuple[str, ...]`): of the features.
        width (`int`): size of the users' vectors for items.
        feature_width (`int`): size of the users' vectors for features.
        learning_rate (`float`): of Adam.
        regularization (`float`): of the vectors that a batch uses.
        epochs (`int`): at most; it ends before where validation gets no better.
        batch_size (`int`): triples of a user, an item of theirs, and one that is not.
    """

    SCORING_SETTINGS = ()
    kinds: tuple[str, ...] = ("text",)
    width: int = 64
    feature_width: int = 32
    learning_rate: float = 5e-3
    regularization: float = 1e-4
    epochs: int = 60
    batch_size: int = 4096

    def fit(self, data: TrainingData, validate: Callable[[], float] | None = None, seed: int = 0) -> None:
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        features = torch.from_numpy(data.unit_features(self.kinds))
        self.network = _FeatureFactors(data.num_users, features, self.width, self.feature_width)
        with torch.no_grad():
            self.network.items.weight[torch.from_numpy(data.popularity == 0)] = 0
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        users = data.events.users[data.events.row_of_event]
        best = BestState(self.network, validate, PATIENCE)
        for epoch in range(self.epochs):
            self._train_epoch(users, data, optimizer, rng)
            if (epoch + 1) % EVALUATE_EVERY == 0 and best.stop():
                break
        best.restore()

    def _train_epoch(
        self, users: np.ndarray, data: TrainingData, optimizer: torch.optim.Optimizer, rng: np.random.Generator
    ) -> None:
        owned = np.unique(users * data.num_items + data.events.items)
        known = np.flatnonzero(data.popularity)
        order = rng.permutation(len(users))
        for part in np.split(order, np.arange(self.batch_size, len(order), self.batch_size)):
            others = rng.choice(known, len(part))
            pairs = users[part] * data.num_items + others
            fair = owned.take(np.searchsorted(owned, pairs), mode="clip") != pairs  # the user does not have it
            triple = (torch.from_numpy(ids[fair]) for ids in (users[part], data.events.items[part], others))
            loss = self.network.loss(*triple, self.regularization)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def score(self, histories: Events) -> np.ndarray:
        network = self.network
        users = user_vectors(network.users.weight.numpy(), histories.users)
        tastes = user_vectors(network.tastes.weight.numpy(), histories.users)
        features = network.project(network.features) @ torch.from_numpy(tastes).T
        items = network.items.weight @ torch.from_numpy(users).T + network.bias.weight
        return (items + features + network.feature_bias(network.features)).T.numpy()


class _FeatureFactors(nn.Module):
    def __init__(self, num_users: int, features: torch.Tensor, width: int, feature_width: int) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.users, self.tastes = nn.Embedding(num_users, width), nn.Embedding(num_users, feature_width)
        self.items, self.bias = nn.Embedding(len(features), width), nn.Embedding(len(features), 1)
        self.project = nn.Linear(features.shape[1], feature_width, bias=False)
        self.feature_bias = nn.Linear(features.shape[1], 1, bias=False)
        for embedding in (self.users, self.tastes, self.items):
            nn.init.normal_(embedding.weight, std=0.1)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.feature_bias.weight)

    def loss(
        self, users: torch.Tensor, items: torch.Tensor, others: torch.Tensor, regularization: float
    ) -> torch.Tensor:
        """How far the user's items are from being above the others, and the size of the vectors; all `(triples,)`."""
        difference = self.features[items] - self.features[others]
        own, other, user, taste = self.items(items), self.items(others), self.users(users), self.tastes(users)
        margin = (user * (own - other)).sum(1) + (taste * self.project(difference)).sum(1)
        margin = margin + (self.bias(items) - self.bias(others) + self.feature_bias(difference))[:, 0]
        size = sum(vectors.square().sum(1) for vectors in (own, other, user, taste))
        return -F.logsigmoid(margin).mean() + regularization * size.mean()
