"""Sparse embeddings: the entries of the vocabulary that a text speaks of, each with a weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SparseVector:
    """The components that are not 0."""

    indices: NDArray[np.int64]
    """Token ids, ascending."""
    values: NDArray[np.float32]


def sparse_vector(weights: NDArray[np.float32]) -> SparseVector:
    """Return the components of (vocabulary,) weights that are not 0."""
    indices = np.flatnonzero(weights)
    return SparseVector(indices, weights[indices])
