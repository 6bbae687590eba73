"""Similarity: the cosine of two texts' vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tremplin.tasks.embed import Vectors


def cosine(source: Vectors, others: Vectors) -> NDArray[np.float32]:
    """Return the cosine of one unit vector (dim,) with each of (rows, dim): shape (rows,), in [-1, 1]."""
    scores: NDArray[np.float32] = np.clip(others @ source, -1.0, 1.0)
    return scores
