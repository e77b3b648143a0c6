"""Finding items by the words of a query."""

import math

import numpy as np
import pytest

from unimp.processing.words_unimp import WordIndex

TEXTS = ["Red mug", "blue mug", "red, Nordic lamp", ""]
RARE, OFTEN = math.log(5 / 2), math.log(5 / 3)  # a word of one of four texts, of two


def _length(*weights):
    return math.sqrt(sum(weight**2 for weight in weights))


def _close(matches, *expected):
    np.testing.assert_allclose(matches, expected, rtol=1e-5)
    assert matches.dtype == np.float32


def test_hand_computed_cosines():
    index = WordIndex(TEXTS)
    red_mug, mug, lamp = _length(OFTEN, OFTEN), _length(RARE, OFTEN), _length(OFTEN, RARE, RARE)
    _close(index.match("red MUG"), 1, OFTEN**2 / red_mug / mug, OFTEN**2 / red_mug / lamp, 0)
    _close(index.match("lamp"), 0, 0, RARE / lamp, 0)


def test_words_count_once_and_those_of_no_text_not_at_all():
    index = WordIndex(TEXTS)
    plain = index.match("blue mug")
    _close(index.match("mug, blue mug! purple"), *plain)
    for nothing in ("", "purple", "?!"):
        _close(index.match(nothing), 0, 0, 0, 0)


def test_a_word_of_every_text_tells_nothing():
    _close(WordIndex(["a hat", "a coat"]).match("a"), 0, 0)
    _close(WordIndex(["a hat", "a coat"]).match("a hat"), 1, 0)


@pytest.mark.parametrize(
    ("text", "query"),
    [("Weiße STRASSE", "weisse straße"), ("赤いマグ", "赤 マグ"), ("iPhone 12", "12"), ("a_b", "A_B")],
)
def test_writing(text, query):
    assert WordIndex([text, "other", "things"]).match(query).argmax() == 0
    assert WordIndex([text, "other", "things"]).match(query)[0] > 0.5


def test_it_is_what_comparing_all_words_gives():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{number}" for number in range(30)]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(0, 8))) for _ in range(40)]
    sets = [set(text.split()) for text in texts]
    weights = {word: math.log(41 / (1 + sum(word in own for own in sets))) for word in vocabulary}
    index = WordIndex(texts)
    for query in texts[:10]:
        asked = {word for word in query.split() if any(word in own for own in sets)}
        expected = [
            sum(weights[word] ** 2 for word in asked & own)
            / max(_length(*map(weights.get, asked)) * _length(*map(weights.get, own)), 1e-6)
            for own in sets
        ]
        _close(index.match(query), *expected)
