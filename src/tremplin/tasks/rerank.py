"""Reranking: documents in the order in which they answer a query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranked:
    """One document and how well it answers the query."""

    index: int
    """Its place among the documents as they were sent."""
    score: float


def ranking(scores: NDArray[np.float32], *, raw_scores: bool = False, top_n: int | None = None) -> list[Ranked]:
    """Return the documents of (documents,) raw scores, best first; the first ``top_n`` of them when it is given.

    A score is the cross-encoder's own when ``raw_scores`` is true, else its sigmoid, in [0, 1]. Equal scores keep
    the documents' order. The raw scores decide: the sigmoids of two large ones may round to the same number.
    """
    order = np.argsort(-scores, kind="stable")[:top_n]
    shown = scores if raw_scores else sigmoid(scores)
    return [Ranked(int(index), float(shown[index])) for index in order]


def sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-score)) for each score, without overflow."""
    # Half of a tanh, which is bounded where exp is not.
    return 0.5 * (1.0 + np.tanh(0.5 * scores.astype(np.float64)))
