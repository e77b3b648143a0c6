"""Which items have the words of a query, and which are alike in their words."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

# BM25's: how much less a text's further words tell, and how much its length counts (Robertson and Zaragoza, 2009).
SATURATION, LENGTH_SHARE = 1.2, 0.75
# Weight of an item of a history relative to the one after it, and how many count: older ones weigh next to nothing.
DECAY, MOST_RECENT = 0.6, 10
# Of scripts that put no spaces between words (Chinese, Japanese, Thai), each character is one.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Marks that join a letter, such as vowels of Hindi, belong to its word.
_MARKS = "".join(sign for sign in map(chr, range(0x10000)) if unicodedata.category(sign).startswith("M"))
_WORD = re.compile(f"[{_UNSPACED}]|(?:[^\\W{_UNSPACED}]|[{_MARKS}])+")


def _distinct_words(text: str) -> set[str]:
    return set(_WORD.findall(unicodedata.normalize("NFKC", text.casefold())))


class WordIndex:
    """
    Finds texts by their words, as BM25 does, but for counting a word of a text once. Unlike keywords, numbers are
    words ("iPhone 12"), and none is left out: how many texts have it says what it tells.

    Args:
        texts (`Sequence[str]`): what may be found.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        words, owners = [], []
        for owner, text in enumerate(texts):
            found = [numbers.setdefault(word, len(numbers)) for word in sorted(_distinct_words(text))]
            words += found
            owners += [owner] * len(found)
        words, owners = np.array(words, dtype=np.int64), np.array(owners, dtype=np.int64)
        counts, lengths = np.bincount(words, minlength=len(numbers)), np.bincount(owners, minlength=len(texts))
        self._numbers, self._words, self._owners = numbers, words, owners[np.argsort(words, kind="stable")]
        self._text_starts, self._word_starts = (np.cumsum([0, *sizes]) for sizes in (lengths, counts))
        self._weights = np.log1p((len(texts) - counts + 0.5) / (counts + 0.5))  # the more, the fewer texts have it
        self._norms = np.sqrt(np.bincount(owners, self._weights[words] ** 2, minlength=len(texts)))
        relative = lengths / max(lengths.mean(), 1e-9)
        self._parts = (SATURATION + 1) / (1 + SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * relative))

    def match(self, query: str) -> np.ndarray:
        """
        How well each text has the words of `query`, `[texts]` in float32: BM25 by what the query's words weigh, so 0
        without any and about 1 with all of them, more in a short text. Words that no text has do not count.
        """
        words = self._known(query)
        weights = self._weights[words]
        return (self._parts * self._sums(words, weights) / max(weights.sum(), 1e-9)).astype(np.float32)

    def similarity(self, history: Sequence[int | str]) -> np.ndarray:
        """
        How alike each text is to a history, `[texts]` in float32: the sum of the cosines of their words, which weigh
        the more, the fewer texts have them, with those of the last `MOST_RECENT` of the history, the last one's in
        full and each one's before it `DECAY` times as much. A text is not compared with itself.

        Args:
            history (`Sequence[int | str]`): numbers of texts, or other texts; oldest first.
        """
        wanted, itself = np.zeros(len(self._numbers)), np.zeros(len(self._parts))
        for age, item in enumerate(history[: -MOST_RECENT - 1 : -1]):
            if isinstance(item, str):
                words = self._known(item)
            else:
                words = self._words[self._text_starts[item] : self._text_starts[item + 1]]
            norm = np.linalg.norm(self._weights[words])
            if norm:
                wanted[words] += DECAY**age * self._weights[words] / norm
                if not isinstance(item, str):
                    itself[item] += DECAY**age
        words = wanted.nonzero()[0]
        sums = self._sums(words, (wanted * self._weights)[words])
        return (sums / np.maximum(self._norms, 1e-9) - itself).astype(np.float32)

    def _known(self, text: str) -> np.ndarray:
        """Numbers of the words of a text that any of the texts has."""
        known = [self._numbers[word] for word in sorted(_distinct_words(text)) if word in self._numbers]
        return np.array(known, dtype=np.int64)

    def _sums(self, words: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """What those of `words` that it has weigh together, of each text."""
        found = [self._owners[self._word_starts[word] : self._word_starts[word + 1]] for word in words]
        each = np.repeat(weights, [len(owners) for owners in found])
        return np.bincount(np.concatenate([self._owners[:0], *found]), each, minlength=len(self._parts))
