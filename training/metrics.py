"""Figures for the five tasks, each small enough to check by hand.

Ranks are worked out once by [`target_ranks`]; every ranking figure is a function of them, one value a row, so that
the same values give the mean, its interval and the comparison of two models. [`figures`] counts every user once,
however many rows they have.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchmetrics.functional import mean_absolute_error, mean_squared_error

CUTOFFS = (1, 3, 5, 10, 20)

# A figure with the ends of its interval: `value`, `low`, `high`; `None` for what cannot be said.
Figure = dict[str, float | None]

# Numbers held at once while users are drawn anew.
_MOST_NUMBERS = 20_000_000


def target_ranks(scores: torch.Tensor | np.ndarray, target: torch.Tensor | np.ndarray) -> np.ndarray:
    """The rank of each target among all items, 1 being best.

    Items with the target's score share their ranks' mean: a target tied with one other for first place has rank 1.5,
    and a model that scores all N items alike ranks every target (N + 1) / 2. No order of the items is rewarded.

    Args:
        scores (`torch.Tensor` or `np.ndarray` of shape `(batch_size, num_items)`):
            Higher is better. An item of score -inf is excluded: it comes after all others.
        target (`torch.Tensor` or `np.ndarray` of shape `(batch_size,)`):
            Column of the item that was chosen.

    Returns:
        `np.ndarray` of shape `(batch_size,)`: ranks, float64; inf (never a hit) where the target itself is excluded.

    Raises:
        ValueError: if a score is NaN, a target is no column of `scores`, or the shapes do not fit.
    """
    scores, target = torch.as_tensor(scores), torch.as_tensor(target)
    if scores.ndim != 2 or target.shape != scores.shape[:1] or not scores.numel():
        raise ValueError(
            "`scores` must be (batch_size, num_items) and `target` (batch_size,), not empty, "
            f"but got {tuple(scores.shape)} and {tuple(target.shape)}."
        )
    if scores.isnan().any():
        raise ValueError(
            f"`scores` has NaN in {int(scores.isnan().any(1).sum())} rows; exclude items with -inf instead."
        )
    if target.min() < 0 or target.max() >= scores.shape[1]:
        raise ValueError(
            f"`target` must be columns 0 to {scores.shape[1] - 1}, but got {int(target.min())} to {int(target.max())}."
        )
    own = scores.gather(1, target.long()[:, None])
    better = (scores > own).sum(1)
    tied = (scores == own).sum(1) - 1
    ranks = 1 + better.double() + tied.double() / 2
    return ranks.masked_fill(own[:, 0] == -torch.inf, torch.inf).cpu().numpy()


def ranking_values(ranks: Sequence[float] | np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """Hit rate, NDCG and reciprocal rank of every user, for one relevant item each.

    With rank r, and 0 where r > k: `hr@k` is 1, `ndcg@k` is 1 / log2(r + 1), `mrr@k` is 1 / r.

    Args:
        ranks (`Sequence[float]` or `np.ndarray` of shape `(num_users,)`): from [`target_ranks`].
        cutoffs (`Sequence[int]`, *optional*, defaults to `(1, 3, 5, 10, 20)`): the values of k.

    Returns:
        `dict[str, np.ndarray]`: `"hr@1"`, `"ndcg@1"`, `"mrr@1"`, `"hr@3"`, ..., each of shape `(num_users,)`.

    Raises:
        ValueError: if `ranks` is empty or has a value that is no rank.
    """
    ranks = _values(ranks, "ranks", finite=False)
    if not (ranks >= 1).all():
        raise ValueError(f"`ranks` must be 1 or more, but the least is {ranks.min()}; rank the best item 1.")
    gains = {"hr": np.ones_like(ranks), "ndcg": 1 / np.log2(ranks + 1), "mrr": 1 / ranks}
    return {f"{name}@{k}": np.where(ranks <= k, gain, 0.0) for k in cutoffs for name, gain in gains.items()}


def chance_values(num_items: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """What [`ranking_values`] are on average where items are ordered by chance: each rank is equally likely.

    Args:
        num_items (`np.ndarray` of shape `(num_users,)`): how many items there are to rank; 0 where the relevant one is
            none of them.
        cutoffs (`Sequence[int]`, *optional*, defaults to `(1, 3, 5, 10, 20)`): the values of k.
    """
    by_rank = ranking_values(np.arange(1, max(cutoffs) + 1), cutoffs)
    totals = {name: np.append(0, np.cumsum(values)) for name, values in by_rank.items()}
    places = np.minimum(num_items, max(cutoffs))
    return {name: total[places] / np.maximum(num_items, 1) for name, total in totals.items()}


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of a statistic over users, by the percentile bootstrap.

    Args:
        values (`Sequence[float]` or `np.ndarray` of shape `(num_users, ...)`): a value, or a row of them, a user.
        statistic (`Callable`, *optional*, defaults to `np.mean`): from resampled values to a number.
        level (`float`, *optional*, defaults to 0.95): share of the resampled statistics inside the interval.
        num_resamples (`int`, *optional*, defaults to 1000): how often the users are drawn anew, with replacement.
        seed (`int`, *optional*, defaults to 0): of the drawing.

    Returns:
        `tuple[float, float]`: the low and the high end.

    Raises:
        ValueError: if `values` is empty or not finite, or `level` is not between 0 and 1.
    """
    values = _values(values, "values")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, but got {level}; 0.95 is usual.")
    rng = np.random.default_rng(seed)
    resampled = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(num_resamples)]
    # Without interpolation, because a resampled ratio may be inf.
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def paired_ratio_interval(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of mean(a) / mean(b), where `a[i]` and `b[i]` are two models' values for the same user.

    Both are drawn for the same users at a time, so that what makes users easy or hard cancels out. A draw without any
    `b` counts as inf: the ratio has no upper end then. Arguments and errors are those of [`bootstrap_interval`];
    besides, `a` and `b` must be of one length and the mean of `b` above 0.
    """
    a, b = _pair(a, b)
    if not b.mean() > 0:
        raise ValueError(f"`b` must have a mean above 0 to be divided by, but got {b.mean()}; compare differences.")
    return bootstrap_interval(np.stack([a, b], axis=1), _ratio_of_means, level, num_resamples, seed)


@dataclass(frozen=True)
class Measured:
    """A figure in parts: what every row adds to it.

    Attributes:
        rows (`np.ndarray` of shape `(rows,)` or `(rows, parts)`): finite numbers.
        statistic (`Callable`, *optional*): from the users' mean of the parts, `[..., parts]`, to the figure, `[...]`,
            such as a root; without it the figure is the mean itself.
    """

    rows: np.ndarray
    statistic: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, means: np.ndarray) -> np.ndarray:
        """The figure of means, `[..., parts]` to `[...]`."""
        return means[..., 0] if self.statistic is None else self.statistic(means)

    @property
    def parts(self) -> np.ndarray:
        """The rows as `[rows, parts]`."""
        return _values(self.rows, "rows").reshape(len(self.rows), -1)


def root_of_mean(squares: np.ndarray) -> Measured:
    """A root mean square, of squares `[rows]`."""
    return Measured(squares, lambda means: np.sqrt(means[..., 0]))


def difference(a: Measured, b: Measured) -> Measured:
    """How much more a figure is for one system than for another on the same rows."""
    return _of_two(a, b, np.subtract)


def ratio(a: Measured, b: Measured) -> Measured:
    """How many times as much; where there is nothing of `b`, inf (or NaN, if of `a` neither)."""
    return _of_two(a, b, lambda x, y: np.divide(x, y, where=y != 0, out=np.where(x > 0, np.inf, np.nan)))


def _of_two(a: Measured, b: Measured, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Measured:
    if len(a.rows) != len(b.rows):
        raise ValueError(f"`a` and `b` must be of the same rows, but got {len(a.rows)} and {len(b.rows)}.")
    parts = [a.parts, b.parts]
    split = parts[0].shape[1]
    return Measured(np.hstack(parts), lambda means: combine(a(means[..., :split]), b(means[..., split:])))


def user_means(rows: np.ndarray, users: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Means over the rows of each user, `[rows, parts]` to `[users, parts]`; users in the order of their ids."""
    codes = np.unique(np.asarray(users), return_inverse=True)[1]
    if len(codes) != len(rows):
        raise ValueError(f"`users` must name the user of each of {len(rows)} rows, but got {len(codes)}.")
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    return np.add.reduceat(rows[order], np.cumsum(counts) - counts, axis=0) / counts[:, None]


def figures(
    measured: Mapping[str, Measured],
    users: Sequence[Any] | np.ndarray,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Figures with their intervals over users, by the percentile bootstrap.

    A user counts once: with the mean over their rows. Users are drawn with all their rows, and the same ones for every
    figure.

    Args:
        measured (`Mapping[str, Measured]`): by name; all of the same rows.
        users (`Sequence` of length `rows`): whose row it is.
        level, num_resamples, seed: as in [`bootstrap_interval`].

    Returns:
        `dict[str, dict]`: by name, `value`, `low` and `high`; `None` for one that is not finite.

    Raises:
        ValueError: if a value is not finite or the lengths differ.
    """
    if not measured:
        return {}
    parts = [figure.parts for figure in measured.values()]
    means = user_means(np.hstack(parts), users)
    resampled = _resampled_means(means, num_resamples, seed)
    ends, results = np.cumsum([part.shape[1] for part in parts]), {}
    for (name, figure), part, end in zip(measured.items(), parts, ends, strict=True):
        own = slice(end - part.shape[1], end)
        draws = figure(resampled[:, own])
        # Without interpolation, because a resampled ratio may be inf.
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        found = {"value": figure(means.mean(0)[own]), "low": low, "high": high}
        results[name] = {key: float(value) if np.isfinite(value) else None for key, value in found.items()}
    return results


def _resampled_means(values: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Means of users drawn anew, `[users, parts]` to `[num_resamples, parts]`; the draws of [`bootstrap_interval`]."""
    rng, num_users = np.random.default_rng(seed), len(values)
    at_once, means = max(1, _MOST_NUMBERS // num_users), []
    for start in range(0, num_resamples, at_once):
        draws = [rng.integers(0, num_users, num_users) for _ in range(min(at_once, num_resamples - start))]
        means.append(np.stack([np.bincount(draw, minlength=num_users) for draw in draws]) @ values / num_users)
    return np.concatenate(means)


def rating_metrics(
    predictions: Sequence[float] | np.ndarray, targets: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """Root mean squared and mean absolute error, in the ratings' unit (stars).

    Args:
        predictions (`Sequence[float]` or `np.ndarray` of shape `(num_ratings,)`): what the model said.
        targets (`Sequence[float]` or `np.ndarray` of shape `(num_ratings,)`): what the user gave.

    Returns:
        `dict[str, float]`: `rmse` and `mae`.

    Raises:
        ValueError: if they are empty, not finite or of different lengths.
    """
    pair = [torch.from_numpy(_values(predictions, "predictions")), torch.from_numpy(_values(targets, "targets"))]
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"`predictions` must match `targets`, but got shapes {pair[0].shape} and {pair[1].shape}.")
    return {"rmse": mean_squared_error(*pair, squared=False).item(), "mae": mean_absolute_error(*pair).item()}


def selection_values(chosen: Sequence[Set[Any]], true: Sequence[Set[Any]]) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of chosen sets, worked out for each request.

    Choosing nothing where nothing is true is perfect (1); with only one of the two sets empty all three figures are 0.

    Args:
        chosen (`Sequence[Set]`): what the model chose, a set a request.
        true (`Sequence[Set]`): what the user chose, in the same order.

    Returns:
        `dict[str, np.ndarray]`: `precision`, `recall` and `f1`, each of shape `(num_requests,)`.

    Raises:
        ValueError: if there is no request or the lengths differ.
    """
    if len(chosen) != len(true) or not chosen:
        raise ValueError(f"`chosen` and `true` must have one set a request, but got {len(chosen)} and {len(true)}.")
    values = np.array([_overlap(set(c), set(t)) for c, t in zip(chosen, true, strict=True)])
    return dict(zip(("precision", "recall", "f1"), values.T, strict=True))


def _overlap(chosen: set[Any], true: set[Any]) -> tuple[float, float, float]:
    if not chosen and not true:
        return 1.0, 1.0, 1.0
    both = len(chosen & true)
    return both / max(len(chosen), 1), both / max(len(true), 1), 2 * both / (len(chosen) + len(true))


def _pair(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _values(a, "a"), _values(b, "b")
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"`a` and `b` must have one value each a user, but got shapes {a.shape} and {b.shape}.")
    return a, b


def _ratio_of_means(pairs: np.ndarray) -> float:
    a, b = pairs.mean(axis=0)
    return a / b if b > 0 else np.inf


def _values(values: Sequence[float] | np.ndarray, name: str, finite: bool = True) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError(f"`{name}` is empty: got no value; evaluate at least one user.")
    if np.isnan(array).any() or (finite and np.isinf(array).any()):
        raise ValueError(f"`{name}` must be finite numbers, but got NaN or inf; leave those users out and say so.")
    return array
