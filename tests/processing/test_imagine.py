"""The choice among candidates, on scores made by hand."""

import copy
import math

import pytest
import torch
from PIL import Image

from unimp.processing.imagine_unimp import (
    LIKENESS,
    Candidate,
    PictureSimilarity,
    UniMPImageOutput,
    choice_scores,
    score_pictures,
    start_scores,
)

from .conftest import draw_picture

# What they like against what was asked: the more of the one, the less of the other; the last is worse in both.
D_P, D_T = [0.2, 0.5, 0.7, 0.9, 0.15], [0.9, 0.8, 0.5, 0.1, 0.1]


def result(d_p=D_P, d_t=D_T, alpha=0.5):
    candidates = [
        Candidate(Image.new("RGB", (2, 2)), n / 4, p, t) for n, (p, t) in enumerate(zip(d_p, d_t, strict=True))
    ]
    return UniMPImageOutput(candidates, alpha, [], [], [])


def test_scores_are_the_papers():
    assert choice_scores([0.5], [0.25], 0.75) == [pytest.approx(0.75 * math.log(0.5) + 0.25 * math.log(0.25))]
    assert choice_scores([0.5, 0.9], [0.25, 0.1], 0.0) == [pytest.approx(math.log(d)) for d in (0.25, 0.1)]
    assert choice_scores([0.5, 0.9], [0.25, 0.1], 1.0) == [pytest.approx(math.log(d)) for d in (0.5, 0.9)]
    assert choice_scores([0.0], [1.0], 1.0)[0] < -10  # and not an error


def test_what_a_candidate_begins_with_is_rated_by_request_and_taste():
    asked, found, d_p = [-1.0, -2.0], [-3.0, -0.5], [0.5, None]
    liked = [-3 + LIKENESS * math.log(0.5), -0.5]  # nothing to compare with decides nothing
    for weighting in (0.0, 0.3, 1.0):
        expected = [a + 2 * weighting * b for a, b in zip(asked, liked, strict=True)]
        assert start_scores(asked, found, d_p, weighting) == pytest.approx(expected)


def test_alpha_moves_the_choice_from_what_was_asked_to_what_they_like():
    answer = result()
    chosen = [answer.choose(alpha / 20) for alpha in range(21)]
    likes, asked = [candidate.d_p for candidate in chosen], [candidate.d_t for candidate in chosen]
    assert likes == sorted(likes)
    assert asked == sorted(asked, reverse=True)
    assert (likes[0], likes[10], likes[-1]) == (0.2, 0.5, 0.9)  # sqrt(.5 * .8) is the largest mean
    assert len({candidate.weighting for candidate in chosen}) == 4


def test_the_result_shows_what_its_own_alpha_chooses():
    answer = result(alpha=1.0)
    assert answer.image is answer.candidates[3].image
    assert answer.images == [answer.image]
    assert answer.scores() == choice_scores(D_P, D_T, 1.0)


def test_what_cannot_be_compared_decides_nothing():
    assert result(d_p=[None] * 5, alpha=0.9).choose().d_t == 0.9
    assert result(d_t=[None] * 5, alpha=0.1).choose().d_p == 0.9


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), "1", None, True])
def test_an_alpha_outside_is_refused(alpha):
    with pytest.raises(ValueError, match="`alpha`"):
        choice_scores([0.5], [0.5], alpha)


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="no candidates"):
        choice_scores([], [], 0.5)


@pytest.mark.parametrize("scores", [[0.5], [0.5, 1.2], [0.5, -0.1], [0.5, float("nan")]])
def test_a_scorer_must_give_a_similarity_a_picture(scores):
    with pytest.raises(ValueError, match="`scorer`"):
        score_pictures(lambda pictures, references: scores, [draw_picture(0)] * 2, [draw_picture(1)])


def test_the_models_own_similarity(shared):
    similarity = PictureSimilarity(*shared)
    pictures = [draw_picture(seed) for seed in range(3)]
    same, other = similarity(pictures[:2], pictures[:1])
    assert same == pytest.approx(1.0)
    assert 0 <= other < same
    one, two = similarity(pictures[2:], pictures[:1])[0], similarity(pictures[2:], pictures[1:2])[0]
    assert similarity(pictures[2:], pictures[:2]) == [pytest.approx((one + two) / 2)]
    assert score_pictures(similarity, pictures, []) == [None] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pictures_are_alike_as_the_model_reads_those_of_its_items(shared, dtype):
    model, processor = copy.deepcopy(shared[0]).to(dtype), shared[1]
    pictures = [draw_picture(seed) for seed in range(3)]
    pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    rows = model.picture_rows(model.get_image_features(pixels.to(dtype)).mean(1))
    similarity = PictureSimilarity(model, processor)
    expected = torch.nn.functional.normalize(rows.float(), dim=-1)
    embedded = similarity.embed(pictures)
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded, expected, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0)


@pytest.mark.parametrize("by_position", [False, True])
def test_opposite_pictures_have_a_similarity_near_0(shared, by_position):
    similarity = PictureSimilarity(*shared, by_position=by_position)
    similarity.embed = lambda pictures: torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[[int(p) for p in pictures]]
    assert similarity([0, 1, 2], [0]) == [1.0, 0.5, 0.0]


def test_by_position_shapes_are_told_apart(shared):
    left, right = (Image.new("RGB", (32, 32), "white") for _ in range(2))
    left.paste("red", (0, 0, 12, 32))
    right.paste("red", (20, 0, 32, 32))
    anywhere, by_position = (PictureSimilarity(*shared, by_position=flag) for flag in (False, True))
    for similarity in (anywhere, by_position):
        assert similarity([left], [left]) == [pytest.approx(1.0)]
    apart = [(similarity.embed([left]) @ similarity.embed([right]).T).item() for similarity in (anywhere, by_position)]
    assert apart[1] < apart[0] - 0.05
