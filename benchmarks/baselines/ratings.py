"""What a user will think of an item, in the ratings' unit: the mean, biases, and biased matrix factorisation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import surprise

from unimp.training.metrics import rating_metrics

from .data import Events, TrainingData

Validate = Callable[[], float] | None


class RatingPredictor(Protocol):
    """A dataclass whose fields are its settings, as a `Ranker` is."""

    SCORING_SETTINGS: tuple[str, ...] = ()

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        """Learns from the training events that have a rating."""
        ...

    def predict(self, histories: Events, items: np.ndarray) -> np.ndarray:
        """The rating that the user of each history gives to `items`, `(num_rows,)`."""
        ...


def rated(rows: Events) -> np.ndarray:
    """Which rows have a rating to predict: that of their last event, `(num_rows,)`."""
    return ~np.isnan(rows.ratings[rows.last])


def predictions(predictor: RatingPredictor, rows: Events) -> np.ndarray:
    """The predicted rating of the last event of every row."""
    return predictor.predict(rows.histories(), rows.items[rows.last])


def rating_figure(predictor: RatingPredictor, validation: Events) -> float:
    """What settings are chosen by: the negative RMSE."""
    rows = validation.select(rated(validation))
    return -rating_metrics(predictions(predictor, rows), rows.ratings[rows.last])["rmse"]


def _rated_events(events: Events) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, item and rating of the events that have a rating."""
    kept = ~np.isnan(events.ratings)
    return events.row_of_event[kept], events.items[kept], events.ratings[kept]


@dataclass
class GlobalMean:
    """The mean of all training ratings."""

    SCORING_SETTINGS = ()

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        _, _, ratings = _rated_events(data.events)
        if not len(ratings):
            raise ValueError("`train` has no rating to learn from; leave the rating methods out.")
        self.mean, self.range = ratings.mean(), (ratings.min(), ratings.max())

    def predict(self, histories: Events, items: np.ndarray) -> np.ndarray:
        return np.full(len(items), self.mean)


@dataclass
class Bias(GlobalMean):
    """The mean, plus how far the item and the user are from it, each shrunk towards 0.

    The user's share is worked out from the history at hand, so that users need not be in training.

    Attributes:
        item_ridge (`float`): ratings of 0 distance that every item is taken to have besides.
        user_ridge (`float`): the same of every user.
        rounds (`int`): times that items and users are worked out in turn.
    """

    SCORING_SETTINGS = ()
    item_ridge: float = 10.0
    user_ridge: float = 10.0
    rounds: int = 10

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        super().fit(data)
        row, item, ratings = _rated_events(data.events)
        user_bias = np.zeros(len(data.events))
        for _ in range(self.rounds):
            left = ratings - self.mean - user_bias[row]
            count = np.bincount(item, minlength=data.num_items)
            self.item_bias = np.bincount(item, left, data.num_items) / np.maximum(count + self.item_ridge, 1e-9)
            user_bias = self._user_bias(data.events)

    def _user_bias(self, events: Events) -> np.ndarray:
        row, item, ratings = _rated_events(events)
        left = np.bincount(row, ratings - self.mean - self.item_bias[item], len(events))
        return left / np.maximum(np.bincount(row, minlength=len(events)) + self.user_ridge, 1e-9)

    def predict(self, histories: Events, items: np.ndarray) -> np.ndarray:
        return np.clip(self.mean + self._user_bias(histories) + self.item_bias[items], *self.range)


@dataclass
class SVD(GlobalMean):
    """Biases and a product of two vectors, by gradient descent: the library surprise's SVD.

    A user or an item without training ratings has its share left out.

    Attributes:
        width (`int`): size of the vectors.
        learning_rate (`float`): of the descent.
        regularization (`float`): of biases and vectors.
        epochs (`int`): passes over the ratings.
    """

    SCORING_SETTINGS = ()
    width: int = 50
    learning_rate: float = 0.005
    regularization: float = 0.05
    epochs: int = 40

    def fit(self, data: TrainingData, validate: Validate = None, seed: int = 0) -> None:
        super().fit(data)
        row, item, ratings = _rated_events(data.events)
        table = pd.DataFrame({"user": data.events.users[row], "item": item, "rating": ratings})
        reader = surprise.Reader(rating_scale=self.range)
        train = surprise.Dataset.load_from_df(table, reader).build_full_trainset()
        self.model = surprise.SVD(
            n_factors=self.width,
            n_epochs=self.epochs,
            lr_all=self.learning_rate,
            reg_all=self.regularization,
            random_state=seed,
        ).fit(train)

    def predict(self, histories: Events, items: np.ndarray) -> np.ndarray:
        pairs = zip(histories.users.tolist(), items.tolist(), strict=True)
        return np.array([self.model.predict(user, item).est for user, item in pairs])
