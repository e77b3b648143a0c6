"""Figures for the five tasks, each small enough to check by hand.

Ranks are worked out once by [`target_ranks`]; every ranking figure is a function of them, one value a user, so that
the same values give the mean, its interval and the comparison of two models.
"""

from collections.abc import Callable, Sequence, Set
from typing import Any

import numpy as np
import torch
from torchmetrics.functional import mean_absolute_error, mean_squared_error

CUTOFFS = (1, 3, 5, 10, 20)


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


def ranking_metrics(ranks: Sequence[float] | np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Means over the users of [`ranking_values`], with the same arguments, names and errors."""
    return {name: float(values.mean()) for name, values in ranking_values(ranks, cutoffs).items()}


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
    a, b = _values(a, "a"), _values(b, "b")
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"`a` and `b` must have one value each a user, but got shapes {a.shape} and {b.shape}.")
    if not b.mean() > 0:
        raise ValueError(f"`b` must have a mean above 0 to be divided by, but got {b.mean()}; compare differences.")
    return bootstrap_interval(np.stack([a, b], axis=1), _ratio_of_means, level, num_resamples, seed)


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


def selection_metrics(chosen: Sequence[Set[Any]], true: Sequence[Set[Any]]) -> dict[str, float]:
    """Precision, recall and F1 of chosen sets, worked out for each request and then averaged.

    Choosing nothing where nothing is true is perfect (1); with only one of the two sets empty all three figures are 0.

    Args:
        chosen (`Sequence[Set]`): what the model chose, a set a request.
        true (`Sequence[Set]`): what the user chose, in the same order.

    Returns:
        `dict[str, float]`: `precision`, `recall` and `f1`.

    Raises:
        ValueError: if there is no request or the lengths differ.
    """
    if len(chosen) != len(true) or not chosen:
        raise ValueError(f"`chosen` and `true` must have one set a request, but got {len(chosen)} and {len(true)}.")
    figures = np.mean([_overlap(set(c), set(t)) for c, t in zip(chosen, true, strict=True)], axis=0)
    return dict(zip(("precision", "recall", "f1"), figures.tolist(), strict=True))


def _overlap(chosen: set[Any], true: set[Any]) -> tuple[float, float, float]:
    if not chosen and not true:
        return 1.0, 1.0, 1.0
    both = len(chosen & true)
    return both / max(len(chosen), 1), both / max(len(true), 1), 2 * both / (len(chosen) + len(true))


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
