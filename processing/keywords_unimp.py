"""Keywords of what a person likes and of what was asked (PMG, "explicit keywords"), counted or out of an answer."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .catalog_unimp import flatten_value

# How many keywords PMG uses.
NUM_PREFERENCE_KEYWORDS, NUM_TARGET_KEYWORDS = 8, 5

_WORD = re.compile(r"[^\W_]+(?:[-'’&][^\W_]+)*")
# Words that say nothing of what a thing looks like.
_STOP_WORDS = (
    "a about after again all almost also always am an and another any are as at back be because been before being "
    "bought but buy by came can come could did do does doing done down each enough even ever every few find for from "
    "get gets go goes good got had hardly has have having he her here hers him his how i if in into is isn't it it's "
    "its just know let like liked likes look looking love loved made make makes many may me mean might more most much "
    "must my need never no nor not nothing now of off on once one only or other our out over own please really right "
    "same say see she should so some something still such take than that the their them then there these they thing "
    "things this those through time to too under until up us use very want wants was way we well were what when where "
    "which while who why will with would yes you your yours"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


def find_words(text: str) -> list[str]:
    """The words of a text in lower case, in its order and each once; without numbers and words that say nothing."""
    words = dict.fromkeys(match[0].lower() for match in _WORD.finditer(text))
    return [word for word in words if word not in STOP_WORDS and not word.isdigit() and len(word) > 1]


def item_words(attributes: Mapping[str, Any], max_words: int = 20) -> str:
    """
    The values of an item's attributes as one text, of each at most `max_words`; their names say nothing of this item.
    """
    return "; ".join(filter(None, (flatten_value(value, max_words) for value in attributes.values())))


def count_keywords(texts: Sequence[str], limit: int | None = None) -> list[str]:
    """
    The words that most of the texts have, most frequent first.

    A text counts a word once, however often it says it. Of words in equally many texts the one in a later text comes
    first, and within a text the earlier one.

    Args:
        texts (`Sequence[str]`): one an item, oldest first.
        limit (`int`, *optional*): most keywords; all by default.
    """
    counts = Counter(word for text in reversed(texts) for word in find_words(text))
    return [word for word, _ in counts.most_common(limit)]  # ties in the order in which they were met first


def preference_keywords(
    liked: Sequence[str], answer: str | None = None, limit: int = NUM_PREFERENCE_KEYWORDS
) -> list[str]:
    """
    What a person likes: the words of the model's answer, then those that most of the liked items have.

    Args:
        liked (`Sequence[str]`): what is known of each item that they liked, oldest first.
        answer (`str`, *optional*): what the model says of their taste.
        limit (`int`): most keywords.
    """
    counted = count_keywords(liked)
    if not answer:
        return counted[:limit]
    known = set(counted)
    # What the history bears out comes first: an answer also has words that are only there to make a sentence.
    said = sorted(find_words(answer), key=lambda word: word not in known)
    return _first([*said, *counted], limit)


def target_keywords(query: str | None, targets: Sequence[str], limit: int = NUM_TARGET_KEYWORDS) -> list[str]:
    """
    What was asked: the words of the query, then those that most of the items that fit it have.

    Args:
        query (`str`, *optional*): the request.
        targets (`Sequence[str]`): what is known of each of these items, the best one last.
        limit (`int`): most keywords.
    """
    return _first([*find_words(query or ""), *count_keywords(targets)], limit)


def _first(words: Iterable[str], limit: int) -> list[str]:
    return list(dict.fromkeys(words))[:limit]
