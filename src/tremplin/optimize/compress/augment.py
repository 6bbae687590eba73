"""More text to teach with: variations of the texts there are, which the teacher labels.

A student sees the teacher's answers on many texts near those of the task, not only on the task's own. Labels need
not be kept: a variation that changes the meaning is as good a lesson, for the teacher answers it. Sources: Jiao et
al., TinyBERT, 2020 (words replaced by near ones); Wei and Zou 2019 (words dropped and swapped).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORDS = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
NEAR = 8
"""A word is replaced by one of so many nearest ones."""
MAX_WORDS = 20_000


class Variations:
    """Makes texts out of texts; the same seed makes the same ones."""

    def __init__(self, texts: Sequence[str], near: dict[str, list[str]], *, seed: int) -> None:
        self._texts = [text.split() for text in texts]
        self._near = near
        self._random = random.Random(seed)

    def make(self, count: int) -> list[str]:
        """Return ``count`` different texts that are not among the originals."""
        seen = {" ".join(words) for words in self._texts}
        made: list[str] = []
        tries = 0
        while len(made) < count and tries < 20 * count:
            tries += 1
            text = " ".join(self._vary(self._random.choice(self._texts)))
            if text and text not in seen:
                seen.add(text)
                made.append(text)
        return made

    def _vary(self, words: list[str]) -> list[str]:
        pick = self._random.random()
        if pick < 0.25:  # the beginning of one and the end of another
            other = self._random.choice(self._texts)
            return words[: self._random.randint(1, len(words))] + other[self._random.randint(0, len(other) - 1) :]
        changed = list(words)
        if pick < 0.8:
            changed = [self._replaced(word) for word in changed]
        if pick >= 0.6:
            changed = [word for word in changed if self._random.random() > 0.12] or changed
        if pick >= 0.9 and len(changed) > 1:
            at = self._random.randrange(len(changed) - 1)
            changed[at], changed[at + 1] = changed[at + 1], changed[at]
        return changed

    def _replaced(self, word: str) -> str:
        near = self._near.get(word.lower())
        return self._random.choice(near) if near and self._random.random() < 0.3 else word


def words_of(texts: Sequence[str]) -> list[str]:
    """Return the different words of some texts, the commonest first, at most MAX_WORDS."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in WORDS.findall(text.lower()):
            counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS]


def near_words(words: Sequence[str], vectors: NDArray[np.float32]) -> dict[str, list[str]]:
    """Return the nearest words of each by the cosine of their vectors (words, dim)."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    found: dict[str, list[str]] = {}
    for start in range(0, len(words), 1024):
        block = unit[start : start + 1024] @ unit.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -1
        nearest = np.argpartition(-block, min(NEAR, len(words) - 1), axis=1)[:, :NEAR]
        for row, columns in enumerate(nearest):
            found[words[start + row]] = [words[int(column)] for column in columns]
    return found
