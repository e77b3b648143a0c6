"""Every baseline by name, and the settings that tuning tries: six for what is trained, up to twenty for the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from .explanations import NearestReview, Template
from .factorisation import BPR, VBPR
from .neighbours import EASE, ContentKNN, ItemKNN, Popularity
from .ratings import SVD, Bias, GlobalMean
from .sequential import BERT4Rec, SASRec, SASRecHybrid

NEXT_THREE = (1.0, 0.4, 0.16)


@dataclass(frozen=True)
class Method:
    """How to make a baseline, and what to try.

    Attributes:
        make (`Callable`): from settings to the baseline.
        grid (`Sequence[Mapping]`): settings to try.
        kinds (`tuple[str, ...]`): of the item features that it cannot do without.
        draws (`bool`): whether two seeds differ.
    """

    make: Callable[..., Any]
    grid: Sequence[Mapping[str, Any]] = ({},)
    kinds: tuple[str, ...] = ()
    draws: bool = False


def _grid(**choices: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination, the last name changing fastest."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def _with_features(
    name: str, make: Callable[..., Any], grid: Sequence[Mapping[str, Any]], draws: bool
) -> dict[str, Method]:
    by_kind = {"text": ("text",), "picture": ("picture",), "both": ("text", "picture")}
    return {
        f"{name}_{kind}": Method(partial(make, kinds=kinds), grid, kinds, draws) for kind, kinds in by_kind.items()
    }


DECAYS = (1.0, 0.9, 0.8, 0.7, 0.5)

_BPR = [
    {"learning_rate": 0.02, "regularization": 0.01, "epochs": 100},
    {"learning_rate": 0.02, "regularization": 0.01, "epochs": 300},
    {"learning_rate": 0.02, "regularization": 0.03, "epochs": 300},
    {"learning_rate": 0.05, "regularization": 0.01, "epochs": 300},
    {"learning_rate": 0.05, "regularization": 0.003, "epochs": 100},
    {"width": 128, "learning_rate": 0.02, "regularization": 0.01, "epochs": 300},
]
_VBPR = [
    {"regularization": 1e-4},
    {"regularization": 1e-3},
    {"regularization": 1e-2},
    {"regularization": 1e-3, "learning_rate": 2e-3},
    {"regularization": 1e-3, "width": 32},
    {"regularization": 1e-3, "feature_width": 64},
]
_SASREC = [  # the most promising first, for where there is not time for all
    {"dropout": 0.2, "loss_weights": NEXT_THREE, "width": 128, "heads": 4},
    {"dropout": 0.4, "loss_weights": NEXT_THREE, "width": 128, "heads": 4, "learning_rate": 1e-3},
    {"dropout": 0.4, "width": 128, "heads": 4, "learning_rate": 1e-3},
    {"dropout": 0.4, "loss_weights": NEXT_THREE, "learning_rate": 1e-3},
    {"dropout": 0.2, "loss_weights": NEXT_THREE},
    {"dropout": 0.2},
]
_BERT4REC = [
    {"hidden_share": 0.2},
    {"hidden_share": 0.4},
    {"hidden_share": 0.4, "width": 128, "heads": 4},
    {"hidden_share": 0.2, "dropout": 0.4, "learning_rate": 1e-3},
    {"hidden_share": 0.4, "dropout": 0.4, "learning_rate": 1e-3},
    {"hidden_share": 0.4, "dropout": 0.4, "learning_rate": 1e-3, "width": 128, "heads": 4},
]
_SVD = [
    {"regularization": 0.02, "epochs": 20},
    {"regularization": 0.05, "epochs": 40},
    {"regularization": 0.1, "epochs": 40},
    {"regularization": 0.1, "epochs": 80},
    {"regularization": 0.05, "epochs": 40, "width": 100},
    {"regularization": 0.1, "epochs": 80, "width": 100, "learning_rate": 0.01},
]

RANKING: dict[str, Method] = {
    "popularity": Method(Popularity),
    "item_knn": Method(ItemKNN, _grid(neighbours=(10, 50, 200), shrink=(0.0, 10.0), decay=(1.0, 0.7, 0.5))),
    "ease": Method(EASE, _grid(ridge=(50.0, 200.0, 800.0), decay=DECAYS)),
    **_with_features("content_knn", ContentKNN, _grid(whitening=(0.0, 0.5, 1.0), decay=(*DECAYS, 0.3)), draws=False),
    "bpr": Method(BPR, _BPR, draws=True),
    **_with_features("vbpr", VBPR, _VBPR, draws=True),
    "sasrec": Method(SASRec, _SASREC, draws=True),
    "sasrec_hybrid": Method(
        SASRecHybrid,
        [settings | beside for settings in _SASREC for beside in _grid(similarity=(1.0, 2.0), neighbours=(0.0, 8.0))],
        kinds=("text",),
        draws=True,
    ),
    "bert4rec": Method(BERT4Rec, _BERT4REC, draws=True),
}
RATING: dict[str, Method] = {
    "global_mean": Method(GlobalMean),
    "bias": Method(Bias, _grid(item_ridge=(1.0, 3.0, 10.0, 30.0), user_ridge=(1.0, 3.0, 10.0, 30.0))),
    "svd": Method(SVD, _SVD, draws=True),
}
EXPLANATION: dict[str, Method] = {"template": Method(Template), "nearest_review": Method(NearestReview)}
