"""Recommenders that are counted or solved for, not trained step by step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse

from .data import Events, TrainingData, unit

Validate = Callable[[], float] | None


@dataclass
class Popularity:
    """Items by how many training events they have."""

    SCORING_SETTINGS = ()

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        self.counts = data.popularity.astype(np.float32)

    def score(self, histories: Events) -> np.ndarray:
        return np.tile(self.counts, (len(histories), 1))


@dataclass
class ItemKNN:
    """Items like those of the history: cosine of the sets of people who have them.

    The score of item j is the sum over the history of `decay ** age` times the similarity of its item to j, age 0
    being the last event.

    Attributes:
        neighbours (`int`): how many of the most similar items each item keeps.
        shrink (`float`): added to the cosine's denominator, so that few people in common count for less.
        decay (`float`): 1 for no recency.
    """

    SCORING_SETTINGS = ("decay",)
    neighbours: int = 100
    shrink: float = 10.0
    decay: float = 1.0

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        matrix = data.binary_matrix()
        common = (matrix.T @ matrix).tocoo()
        length = np.sqrt(matrix.sum(axis=0))
        row, column = common.coords
        values = common.data / (length[row] * length[column] + self.shrink)
        values[row == column] = 0
        similarity = scipy.sparse.coo_array((values, (row, column)), shape=common.shape).tocsr()
        self.similarity = _largest_of_rows(similarity, self.neighbours)

    def score(self, histories: Events) -> np.ndarray:
        return (histories.matrix(self.similarity.shape[0], self.decay) @ self.similarity).toarray()


def _largest_of_rows(matrix: scipy.sparse.csr_array, count: int) -> scipy.sparse.csr_array:
    """The `count` largest values of each row, the others 0."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, row))  # within a row, largest first
    kept = order[np.arange(len(row)) - matrix.indptr[row] < count]
    place = (row[kept], matrix.indices[kept])
    return scipy.sparse.coo_array((matrix.data[kept], place), shape=matrix.shape).tocsr()


@dataclass
class EASE:
    """A linear model of every item by all others, solved in closed form (Steck, 2019, arXiv:1905.03375).

    Attributes:
        ridge (`float`): lambda, what is added to the diagonal of the items' co-occurrences.
        decay (`float`): of the history's weights as in [`ItemKNN`], which is not in the paper; 1 is the paper's.
    """

    SCORING_SETTINGS = ("decay",)
    ridge: float = 200.0
    decay: float = 1.0

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        matrix = data.binary_matrix()
        gram = (matrix.T @ matrix).toarray(order="F")
        gram[np.diag_indices_from(gram)] += self.ridge
        inverse = _inverse(gram)
        self.weights = -inverse / np.diag(inverse)
        np.fill_diagonal(self.weights, 0)

    def score(self, histories: Events) -> np.ndarray:
        return histories.matrix(len(self.weights), self.decay) @ self.weights


def _inverse(gram: np.ndarray) -> np.ndarray:
    """Inverse of a positive definite matrix, in place: a third of the work of a general one."""
    factor, _ = scipy.linalg.lapack.spotrf(gram, lower=True, overwrite_a=True)
    inverse, status = scipy.linalg.lapack.spotri(factor, lower=True, overwrite_c=True)
    if status:
        raise ValueError("`ridge` is too small for the items' co-occurrences to be inverted; give a larger one.")
    lower = np.tril(inverse)
    return lower + np.tril(inverse, -1).T


@dataclass
class ContentKNN:
    """Items that look or read like those of the history: needs no other people, and knows new items.

    The score is the product of an item's features with their mean over the history, weighed by `decay ** age`.

    Attributes:
        kinds (`tuple[str, ...]`): of the features, ("text",), ("picture",) or both.
        whitening (`float`): 0 takes the features as they are; 1 as deviations from their mean of which every principal
            direction counts alike, as what few items differ in tells more than what most do; between the two for less.
            Each kind by itself.
        decay (`float`): 1 for no recency.
    """

    SCORING_SETTINGS = ("decay",)
    kinds: tuple[str, ...] = ("text",)
    whitening: float = 0.0
    decay: float = 1.0

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        kinds = (data.unit_features((kind,)) for kind in self.kinds)
        self.features = np.concatenate([_whitened(kind, self.whitening) for kind in kinds], axis=1)

    def score(self, histories: Events) -> np.ndarray:
        weights = histories.matrix(len(self.features), self.decay)
        total = np.maximum(weights.sum(axis=1), 1e-9)[:, None]
        return (weights @ self.features / total) @ self.features.T


def _whitened(features: np.ndarray, whitening: float) -> np.ndarray:
    """Features `[items, size]` with each principal direction divided by its spread to the power of `whitening`, and
    rows of length 1; rows of zeros stay.
    """
    known = features.any(axis=1)
    if not whitening or not known.any():
        return features
    deviations = features[known] - features[known].mean(axis=0)
    directions, spreads, _ = np.linalg.svd(deviations, full_matrices=False)
    kept = spreads > 1e-4 * spreads[:1]  # the rest is rounding
    whitened = np.zeros((len(features), kept.sum()), np.float32)
    whitened[known] = unit(directions[:, kept] * spreads[kept] ** (1 - whitening))
    return whitened
