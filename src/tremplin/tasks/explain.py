"""Explanation by occlusion: how much the decision loses when one word is taken away.

Source: Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014 (occlusion); Li, Monroe
& Jurafsky, Understanding Neural Networks through Representation Erasure, 2016 (words).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")

# Each word costs one row of the batch; beyond this the words are grouped so that cost stays bounded.
MAX_SPANS = 64


@dataclass(frozen=True)
class Span:
    """A stretch of the text, by character offsets."""

    start: int
    end: int


@dataclass(frozen=True)
class WordWeight:
    """A stretch of the text and what its removal costs the decision."""

    text: str
    start: int
    end: int
    weight: float
    """Probability of the label with the whole text minus without this stretch; in [-1, 1]."""


@dataclass(frozen=True)
class Explanation:
    """Which words carried the decision for one label."""

    label: str
    probability: float
    words: tuple[WordWeight, ...]
    """In the text's order."""


def spans(text: str, limit: int = MAX_SPANS) -> list[Span]:
    """Return the words of a text; neighbours are grouped evenly when there are more than ``limit``."""
    words = [Span(match.start(), match.end()) for match in WORD.finditer(text)]
    if len(words) <= limit:
        return words
    edges = np.linspace(0, len(words), limit + 1).astype(int)
    return [Span(words[first].start, words[last - 1].end) for first, last in itertools.pairwise(edges)]


def occlusions(text: str, parts: Sequence[Span]) -> list[str]:
    """Return the text without each part, in order. A text of one word becomes the empty stand-in "."."""
    return [(text[: part.start] + text[part.end :]).strip() or "." for part in parts]


def explanation(
    text: str,
    parts: Sequence[Span],
    label: str,
    whole: float,
    without: NDArray[np.float32],
) -> Explanation:
    """Return the weights; ``without`` holds the label's probability for each occlusion, shape (parts,)."""
    words = tuple(
        WordWeight(text[part.start : part.end], part.start, part.end, float(whole - without[i]))
        for i, part in enumerate(parts)
    )
    return Explanation(label, float(whole), words)
