"""Figures of generated texts beside what was really written. Words are told apart by capitals nowhere but in BLEU."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from .metrics import Measured

ORDERS = 4  # BLEU-4: n-grams of one to four words
ROUGE = ("rouge1", "rouge2", "rougeL")


def text_measures(texts: Sequence[str], references: Sequence[str]) -> dict[str, Measured]:
    """BLEU-4, ROUGE-1, -2 and -L and METEOR of texts, each between 0 and 1.

    Args:
        texts (`Sequence[str]`): what the model wrote; one without a word scores 0.
        references (`Sequence[str]`): what the person wrote, in the same order.

    Raises:
        ValueError: if the lengths differ.
    """
    if len(texts) != len(references):
        raise ValueError(f"`texts` must match `references`, but got {len(texts)} and {len(references)}.")
    values = {"bleu": Measured(_bleu_counts(texts, references), _bleu)}
    rouge = _rouge(texts, references)
    values |= {name: Measured(rouge[:, column]) for column, name in enumerate(ROUGE)}
    meteors = [meteor(text, reference) for text, reference in zip(texts, references, strict=True)]
    return values | {"meteor": Measured(np.array(meteors))}


def _bleu_counts(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What corpus BLEU adds up: `[rows, 2 + 2 * ORDERS]`, the two lengths, n-grams that match, and all n-grams."""
    from sacrebleu.metrics import BLEU

    # Its tokens (13a) are the standard ones; the setting of the order concerns single sentences, and quietens it.
    bleu = BLEU(effective_order=True)
    scores = [bleu.sentence_score(text, [reference]) for text, reference in zip(texts, references, strict=True)]
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores], dtype=np.float64)


def _bleu(means: np.ndarray) -> np.ndarray:
    """
    BLEU (Papineni et al., 2002), the geometric mean of the n-gram precisions times the brevity penalty, of all texts
    together and without smoothing: 0 where no four words in a row match.

    From the means of the counts, not their sums, so that users with several rows count once; for one row each it is
    the usual corpus BLEU.
    """
    length, expected = means[..., 0], means[..., 1]
    matching, total = means[..., 2 : 2 + ORDERS], means[..., 2 + ORDERS :]
    some = (matching > 0).all(-1)
    safe = np.where(some, length, 1.0)
    logs = np.log(np.where(matching > 0, matching, 1.0) / np.where(total > 0, total, 1.0)).mean(-1)
    return np.where(some, np.exp(logs + np.minimum(0.0, 1 - expected / safe)), 0.0)


def _rouge(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """F-measures without stemming, `[rows, len(ROUGE)]`."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE)
    scores = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return np.array([[score[name].fmeasure for name in ROUGE] for score in scores])


def words_of(text: str) -> list[str]:
    """Words and numbers in small letters."""
    return re.findall(r"\w+", text.lower())


def meteor(text: str, reference: str) -> float:
    """
    METEOR as of Banerjee and Lavie (2005) with its first stage alone: words match when they are the same (no stems,
    no synonyms), so that it is lower than what other tools print.

    With m matches, P = m / words of the text and R = m / words of the reference: `10 P R / (R + 9 P)`, less the share
    `0.5 (chunks / m)^3` of it, where a chunk is a run of matches that is one in both. The paper takes the alignment
    with fewest crossings; this one takes the longest common run first, then the longest of what is left, and so on,
    which is as long and rarely has more chunks.
    """
    words, expected = words_of(text), words_of(reference)
    pairs = sorted(_align(words, expected))
    if not pairs:
        return 0.0
    together = sum(after == (left + 1, right + 1) for (left, right), after in pairwise(pairs))
    chunks = len(pairs) - together
    precision, recall = len(pairs) / len(words), len(pairs) / len(expected)
    mean = 10 * precision * recall / (recall + 9 * precision)
    return mean * (1 - 0.5 * (chunks / len(pairs)) ** 3)


def _align(words: Sequence[str], expected: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of equal words, each word in one pair at most, longest common runs first."""
    left, right, pairs = list(words), list(expected), []
    while run := _longest_run(left, right):
        start, other, length = run
        pairs += [(start + n, other + n) for n in range(length)]
        left[start : start + length] = right[other : other + length] = [None] * length
    return pairs


def _longest_run(left: Sequence[str | None], right: Sequence[str | None]) -> tuple[int, int, int] | None:
    """Where the longest run of equal words begins in both, and its length; `None` for a word that is taken."""
    best, before = None, [0] * (len(right) + 1)
    for i, word in enumerate(left):
        lengths = [0] * (len(right) + 1)
        for j, other in enumerate(right):
            if word is not None and word == other:
                lengths[j + 1] = length = before[j] + 1
                if best is None or length > best[2]:
                    best = (i + 1 - length, j + 1 - length, length)
        before = lengths
    return best


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams of words among all of them, between 0 and 1 (Li et al., 2016); `None` without any."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = words_of(text)
        counts.update(zip(*(words[start:] for start in range(n)), strict=False))
    return len(counts) / counts.total() if counts else None
