"""Which items have the words of a query."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

# BM25's: how much less a text's further words tell, and how much its length counts (Robertson and Zaragoza, 2009).
SATURATION, LENGTH_SHARE = 1.2, 0.75
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
        self._numbers, self._owners = numbers, owners[np.argsort(words, kind="stable")]
        self._ends = np.cumsum(counts)
        self._weights = np.log1p((len(texts) - counts + 0.5) / (counts + 0.5))  # the more, the fewer texts have it
        relative = lengths / max(lengths.mean(), 1e-9)
        self._parts = (SATURATION + 1) / (1 + SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * relative))

    def match(self, query: str) -> np.ndarray:
        """
        How well each text has the words of `query`, `[texts]` in float32: BM25 by what the query's words weigh, so 0
        without any and about 1 with all of them, more in a short text. Words that no text has do not count.
        """
        known = [self._numbers[word] for word in sorted(_distinct_words(query)) if word in self._numbers]
        scores = np.zeros(len(self._parts))
        for word in known:
            start = self._ends[word - 1] if word else 0
            scores[self._owners[start : self._ends[word]]] += self._weights[word]
        return (self._parts * scores / max(self._weights[known].sum(), 1e-9)).astype(np.float32)
