"""Finding items by the words of a query, and by those of other items."""

import math

import numpy as np
import pytest

from unimp.processing.words_unimp import WordIndex

TEXTS = ["Red mug", "blue mug", "red, Nordic lamp", ""]  # 7/4 words on the average
RARE, OFTEN = math.log(1 + 3.5 / 1.5), math.log(1 + 2.5 / 2.5)  # weights of a word that one of four has, that two have


def _part(length, mean):
    """What a word of a text of so many words counts."""
    return 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / mean))


def _close(matches, *expected):
    np.testing.assert_allclose(matches, expected, rtol=1e-5, atol=1e-9)
    assert matches.dtype == np.float32


def test_hand_computed_shares():
    index = WordIndex(TEXTS)
    two, three = 2.2 / (1 + 1.2 * (0.25 + 6 / 7)), 2.2 / (1 + 1.2 * (0.25 + 9 / 7))
    _close(index.match("red MUG"), two, two / 2, three / 2, 0)
    _close(index.match("lamp"), 0, 0, three, 0)
    _close(index.match("red lamp"), two * OFTEN / (OFTEN + RARE), 0, three, 0)


def test_words_count_once_and_those_of_no_text_not_at_all():
    index = WordIndex(TEXTS)
    plain = index.match("blue mug")
    _close(index.match("mug, blue mug! purple"), *plain)
    for nothing in ("", "purple", "?!"):
        _close(index.match(nothing), 0, 0, 0, 0)


def test_a_word_of_every_text_tells_little():
    hat, coat = WordIndex(["a hat", "a coat"]).match("a hat")
    assert coat == pytest.approx(math.log(1.2) / (math.log(1.2) + math.log(2)))
    assert hat == pytest.approx(1)


@pytest.mark.parametrize("texts", [["hat"], ["", ""]])
def test_few_texts(texts):
    _close(WordIndex(texts).match("hat"), *[float(bool(text)) for text in texts])


WRITINGS = {
    "ß": ("Weiße STRASSE", "weisse straße"),
    "no spaces": ("赤いマグ", "赤 マグ"),
    "numbers": ("iPhone 12", "12"),
    "joined": ("a_b", "A_B"),
    "accents of their own": ("Cafe\u0301", "caf\u00e9"),
    "full width": ("ＡＢＣ", "abc"),
}


@pytest.mark.parametrize(("text", "query"), WRITINGS.values(), ids=WRITINGS.keys())
def test_writing(text, query):
    found, *others = WordIndex([text, "other", "things"]).match(query)
    assert found > 0.5
    assert others == [0, 0]


def test_vowel_signs_are_no_ends_of_words():
    assert WordIndex(["केला", "काला जूता"]).match("केला")[1] == 0


def test_it_is_what_comparing_all_words_gives():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{number}" for number in range(30)]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(0, 8))) for _ in range(40)]
    sets = [set(text.split()) for text in texts]
    counts = {word: sum(word in own for own in sets) for word in vocabulary}
    weights = {word: math.log(1 + (40.5 - count) / (count + 0.5)) for word, count in counts.items()}
    mean = np.mean([len(own) for own in sets])
    index = WordIndex(texts)
    for query in filter(None, texts[:10]):
        asked = set(query.split())
        whole = sum(weights[word] for word in asked)
        expected = [_part(len(own), mean) * sum(weights[word] for word in asked & own) / whole for own in sets]
        _close(index.match(query), *expected)


def test_hand_computed_similarities():
    """Of "Red mug", "blue mug" and "red, Nordic lamp"; a word that one of the four has weighs RARE, else OFTEN."""
    index = WordIndex(TEXTS)
    two, mixed, three = math.hypot(OFTEN, OFTEN), math.hypot(RARE, OFTEN), math.hypot(OFTEN, RARE, RARE)
    mugs, reds = OFTEN**2 / (two * mixed), OFTEN**2 / (two * three)
    _close(index.similarity([0]), 0, mugs, reds, 0)  # not with itself
    _close(index.similarity([1, 0]), 0.6 * mugs, mugs, reds, 0)
    _close(index.similarity([0, 1, 0]), 0.6 * mugs, 1.36 * mugs, 1.36 * reds, 0)
    # Of another text "a" is no word that they have.
    other = [OFTEN**2 / (mixed * two), OFTEN**2 / mixed**2, RARE**2 / (mixed * three)]
    _close(index.similarity(["a nordic MUG", 0]), 0.6 * other[0], mugs + 0.6 * other[1], reds + 0.6 * other[2], 0)
    _close(index.similarity(["no words of theirs", 3]), 0, 0, 0, 0)
    _close(index.similarity([]), 0, 0, 0, 0)


def test_what_is_long_ago_is_like_nothing():
    index = WordIndex(["mug", "mug", "lamp"])
    assert index.similarity([0, *[2] * 9])[1] == pytest.approx(0.6**9, rel=1e-4)
    assert index.similarity([0, *[2] * 10])[1] == pytest.approx(0, abs=1e-6)
