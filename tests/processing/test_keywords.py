"""Keywords, counted by hand."""

import pytest

from unimp.processing.keywords_unimp import (
    count_keywords,
    find_words,
    item_words,
    preference_keywords,
    target_keywords,
)

# red: 3 texts, hat: 2, dress: 2 and later, every other word: 1.
TEXTS = ["Red striped hat", "A red, red HAT for the summer", "red dress", "blue dress"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Striped T-shirt in red, striped!", ["striped", "t-shirt", "red"]),
        ("I am fond of polka dots: 3 or 4 of them", ["fond", "polka", "dots"]),
        ("Vell & Sons; 12.5; x", ["vell", "sons"]),
        ("Grün 🎩 señor's", ["grün", "señor's"]),
    ],
)
def test_words_are_found(text, words):
    assert find_words(text) == words


def test_words_are_counted_once_a_text_and_later_ones_come_first():
    assert count_keywords(TEXTS, 3) == ["red", "dress", "hat"]
    assert count_keywords(TEXTS) == ["red", "dress", "hat", "blue", "summer", "striped"]
    assert count_keywords([]) == []


def test_only_values_of_attributes_are_words():
    attributes = {"title": "Harbour Tee", "genres": ["Drama", "War"], "price": 12.0, "brand": None}
    assert find_words(item_words(attributes)) == ["harbour", "tee", "drama", "war"]


def test_an_answer_comes_before_what_is_counted():
    assert preference_keywords(TEXTS, "Just right: I love stripes, and blue suits me.", limit=4) == [
        "blue",  # the history bears it out
        "stripes",
        "suits",
        "red",
    ]
    assert preference_keywords(TEXTS, None, limit=2) == ["red", "dress"]
    assert preference_keywords([], None) == []
    assert preference_keywords([], "So what?") == []


def test_a_request_comes_before_what_is_counted():
    assert target_keywords("a blue hat", TEXTS, limit=4) == ["blue", "hat", "red", "dress"]
    assert target_keywords("blue hat, striped dress, red coat", TEXTS) == ["blue", "hat", "striped", "dress", "red"]
    assert target_keywords(None, TEXTS, limit=1) == ["red"]
    assert target_keywords(None, []) == []
