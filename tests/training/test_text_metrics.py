"""Figures of texts against arithmetic that can be followed in the comments."""

import math

import numpy as np
import pytest
import sacrebleu

from unimp.training.metrics import figures
from unimp.training.text_metrics import distinct, meteor, text_measures


def values(texts, references):
    return {
        name: found["value"] for name, found in figures(text_measures(texts, references), range(len(texts))).items()
    }


def test_the_same_texts():
    text = "a soft red hat for cold days"
    # One chunk of 7 matches: 1 - 0.5 / 7^3.
    assert values([text], [text]) == pytest.approx(
        {"bleu": 1, "rouge1": 1, "rouge2": 1, "rougeL": 1, "meteor": 1 - 0.5 / 343}
    )


def test_bleu_by_hand():
    # 1 to 4-grams of the text that are in the reference: 5 of 6, 4 of 5, 3 of 4, 2 of 3; as long as the reference.
    figure = values(["the cat sat on the hat"], ["the cat sat on the mat"])["bleu"]
    assert figure == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    # Four words right of eight: exp(1 - 8 / 4).
    assert values(["the cat sat on"], ["the cat sat on the mat all day"])["bleu"] == pytest.approx(math.exp(-1))
    assert values(["no word of that"], ["the cat sat on the mat"])["bleu"] == 0
    assert values(["", "three words only"], ["a", "three words only"])["bleu"] == 0


def test_bleu_is_that_of_all_texts_together():
    texts = ["The cat sat on the mat, alone.", "It was a warm day", "nothing"]
    references = ["The cat sat on a mat, alone.", "It was a very warm day", "something else"]
    expected = sacrebleu.corpus_bleu(texts, [references], smooth_method="none").score / 100
    assert 0 < expected < 1
    assert values(texts, references)["bleu"] == pytest.approx(expected)


def test_rouge_by_hand():
    found = values(["the red hat"], ["the hat is red"])
    # 3 of 3 words and 3 of 4; no pair; the longest common order is "the hat" or "the red", 2 of 3 and 2 of 4.
    assert found["rouge1"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert found["rouge2"] == 0
    assert found["rougeL"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


@pytest.mark.parametrize(
    ("text", "reference", "matches", "chunks"),
    [
        ("the cat sat on the mat", "on the mat sat the cat", 6, 3),  # "on the mat", "the cat", "sat"
        ("the cat sat", "the cat was sat on", 3, 2),
        ("Hats, hats!", "hats", 1, 1),
        ("red", "blue", 0, 0),
        ("a b c d", "c d a b", 4, 2),
    ],
)
def test_meteor_by_hand(text, reference, matches, chunks):
    precision, recall = matches / len(text.split()), matches / len(reference.split())
    expected = 0.0
    if matches:
        mean = 10 * precision * recall / (recall + 9 * precision)
        expected = mean * (1 - 0.5 * (chunks / matches) ** 3)
    assert meteor(text, reference) == pytest.approx(expected)


def test_meteor_of_nothing():
    assert meteor("", "a hat") == meteor("a hat", "") == 0


def test_distinct():
    # "a b a" and "a b": the words a, b of five, the pairs "a b", "b a" of three.
    assert distinct(["a b a", "A b"], 1) == 2 / 5
    assert distinct(["a b a", "A b"], 2) == 2 / 3
    assert distinct(["a", ""], 2) is None


def test_texts_without_a_reference_are_refused():
    with pytest.raises(ValueError, match="`texts` must match `references`, but got 2 and 1"):
        text_measures(["a", "b"], ["a"])


def test_people_of_several_texts_count_once():
    measured = text_measures(["a", "b", "a"], ["a", "a", "b"])
    found = figures(measured, ["ann", "ann", "bob"])["rouge1"]
    assert found["value"] == pytest.approx(np.mean([np.mean([1, 0]), 0]))
