"""What comes of imagining a picture for someone: candidates, how they are scored, and the choice among them (PMG)."""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

# Pictures and the pictures they should be like to a similarity from 0 to 1 each.
Scorer = Callable[[Sequence[Image.Image], Sequence[Image.Image]], Sequence[float]]

# A similarity of 0 has no logarithm.
LEAST_SCORE = 1e-6
# How much an item's likeness to those of the history counts beside the logarithms of probabilities, which are much
# further apart. Chosen on validation of the demo store (60 people): 4 followed the taste less, 16 cost 2 points of
# what was asked.
LIKENESS = 8.0


def to_pixels(picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """A picture as bytes, `[3, height, width]`, brought to `size` (height, width)."""
    resized = picture.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def check_alpha(alpha: Any) -> float:
    """`alpha` itself, or a `ValueError`."""
    if not isinstance(alpha, numbers.Real) or isinstance(alpha, bool) or not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must be from 0 (what was asked) to 1 (what they like), got {alpha!r}.")
    return float(alpha)


def choice_scores(d_p: Sequence[float | None], d_t: Sequence[float | None], alpha: float) -> list[float]:
    """
    `z = alpha * log d_p + (1 - alpha) * log d_t` of every candidate (PMG, "choice").

    Args:
        d_p, d_t (`Sequence[float]`): similarity to what the person likes and to what was asked, 0 to 1. `None` where
            there is nothing to compare with: it then decides nothing.
        alpha (`float`): 0 to 1.

    Raises:
        `ValueError`: there is no candidate, or `alpha` is outside [0, 1].
    """
    alpha = check_alpha(alpha)
    if not d_p:
        raise ValueError("There are no candidates to choose from: generate at least one.")
    return [alpha * _log(p) + (1 - alpha) * _log(t) for p, t in zip(d_p, d_t, strict=True)]


def start_scores(
    asked: Sequence[float], found: Sequence[float], likeness: Sequence[float | None], weighting: float
) -> list[float]:
    """
    How well items are to begin a picture with that has as much taste as `weighting` (0 to 1):
    `log p(item | request) + 2 * weighting * (log p(item | request, history) + LIKENESS * log likeness)`, in which what
    was asked always counts in full.

    Args:
        asked, found (`Sequence[float]`): the two log-probabilities, for anybody and for the person.
        likeness (`Sequence[float]`): to the history, 0 to 1; `None` decides nothing.
        weighting (`float`): of the candidate.
    """
    return [
        a + 2 * weighting * (f + LIKENESS * _log(alike)) for a, f, alike in zip(asked, found, likeness, strict=True)
    ]


def _log(score: float | None) -> float:
    return 0.0 if score is None else math.log(max(score, LEAST_SCORE))


@dataclass(frozen=True)
class Candidate:
    """
    One generated picture.

    Attributes:
        image: the picture.
        weighting: how much taste it has: 0 the request alone, 1 the most.
        d_p: similarity to the pictures of the history; `None` where that has none.
        d_t: similarity to the picture of what the request finds first for anybody (without a request: of what was
            retrieved first; with a target: its own); `None` where there is none.
        start: id of the item whose picture was changed; `None` if it has none, or was drawn from noise alone.
    """

    image: Image.Image
    weighting: float
    d_p: float | None
    d_t: float | None
    start: str | None = None


@dataclass(frozen=True)
class UniMPImageOutput:
    """
    The answer of [`UniMPImagePipeline`] and its story.

    Attributes:
        candidates: every picture that was generated, with its scores.
        alpha: the dial that chose among them.
        retrieved: the items of the catalogue that fit the request, as `unimp-search` answers.
        preference_keywords, target_keywords: what the person likes and what was asked, as the denoiser was told.
        answer: what the model said of their taste, if it was asked and said something.
    """

    candidates: list[Candidate]
    alpha: float
    retrieved: list[dict[str, Any]]
    preference_keywords: list[str]
    target_keywords: list[str]
    answer: str | None = None

    def scores(self, alpha: float | None = None) -> list[float]:
        """`z` of every candidate, for another `alpha` if one is given."""
        d_p, d_t = ([getattr(candidate, name) for candidate in self.candidates] for name in ("d_p", "d_t"))
        return choice_scores(d_p, d_t, self.alpha if alpha is None else alpha)

    def choose(self, alpha: float | None = None) -> Candidate:
        """The candidate with the largest `z`; nothing is generated again for another `alpha`."""
        scores = self.scores(alpha)
        return self.candidates[scores.index(max(scores))]

    @property
    def image(self) -> Image.Image:
        """The chosen picture."""
        return self.choose().image

    @property
    def images(self) -> list[Image.Image]:
        """The chosen picture, in a list, as other diffusers pipelines answer."""
        return [self.image]


def score_pictures(scorer: Scorer, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[Any]:
    """A similarity a picture, checked; `None` for all of them where there are no references."""
    if not references:
        return [None] * len(pictures)
    scores = [float(score) for score in scorer(pictures, references)]
    if len(scores) != len(pictures) or not all(0 <= score <= 1 for score in scores):
        raise ValueError(
            f"`scorer` must give a similarity from 0 to 1 for each of {len(pictures)} pictures, got {scores[:5]}."
        )
    return scores


class PictureSimilarity:
    """
    The model's own view of how alike pictures are: a cosine, averaged over the references and brought to 0..1.

    Args:
        model ([`UniMPForConditionalGeneration`]), processor ([`UniMPProcessor`]): whose view.
        by_position (`bool`): compare the features of every position of a picture, as deviations from the catalogue's
            mean, with those of the same position of the other, which tells shapes apart; by default what they show
            anywhere is compared, as far as it tells the model which items are chosen together
            ([`~UniMPForConditionalGeneration.picture_rows`]), so colours and fabrics.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, by_position: bool = False) -> None:
        self.model = model
        self.processor = processor
        self.by_position = by_position

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """`[pictures, row_size]`, with `by_position` `[pictures, positions * vision_hidden_size]`; of length 1."""
        batches = [self.processor.image_processor(images=[p], return_tensors="pt")["pixel_values"] for p in pictures]
        features = self.model.get_image_features(torch.cat(batches).to(self.model.device)).float()
        if not self.by_position:
            return nn.functional.normalize(self.model.picture_rows(features.mean(1)).float(), dim=-1)
        known_by = self.model.model.item_content
        statistics = self.model.model.item_codes if known_by is None else known_by
        states = nn.functional.normalize(statistics.standardised(features), dim=-1)
        return nn.functional.normalize(states.flatten(1), dim=-1)

    def __call__(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[float]:
        """See `Scorer`."""
        cosines = self.embed(pictures) @ self.embed(references).mean(0)
        return ((1 + cosines.clamp(-1, 1)) / 2).tolist()
