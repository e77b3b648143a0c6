"""Which items have the words of a query."""

import re
from collections.abc import Sequence

import numpy as np

# Of scripts that put no spaces between words (Chinese, Japanese, Thai), each character is one.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")


def _distinct_words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


class WordIndex:
    """
    Finds texts by their words: the cosine of query and text as bags of words, each word once, weighing the more the
    fewer texts have it (inverse document frequency).

    Args:
        texts (`Sequence[str]`): what may be found.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.num_texts = len(texts)
        numbers: dict[str, int] = {}
        words, owners = [], []
        for owner, text in enumerate(texts):
            found = [numbers.setdefault(word, len(numbers)) for word in sorted(_distinct_words(text))]
            words += found
            owners += [owner] * len(found)
        words, owners = np.array(words, dtype=np.int64), np.array(owners, dtype=np.int64)
        order = np.argsort(words, kind="stable")
        counts = np.bincount(words, minlength=len(numbers))
        self._numbers, self._owners = numbers, owners[order]
        self._ends = np.cumsum(counts)
        self._weights = np.log((1 + len(texts)) / (1 + counts))  # 0 of a word that all have: it tells nothing
        squares = np.bincount(owners, self._weights[words] ** 2, minlength=len(texts))
        self._lengths = np.sqrt(np.maximum(squares, 1e-12))

    def match(self, query: str) -> np.ndarray:
        """
        How well each text has the words of `query`, `[texts]` in float32: from 0, no word that tells anything, to 1.
        Words that no text has do not count.
        """
        known = [self._numbers[word] for word in sorted(_distinct_words(query)) if word in self._numbers]
        scores = np.zeros(self.num_texts)
        for word in known:
            start = self._ends[word - 1] if word else 0
            scores[self._owners[start : self._ends[word]]] += self._weights[word] ** 2
        length = np.sqrt(max((self._weights[known] ** 2).sum(), 1e-12))
        return (scores / (length * self._lengths)).astype(np.float32)
