"""Embeddings: one unit vector per text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import BadInput

Vectors = NDArray[np.float32]


def shorten(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Return the first ``dimensions`` components, of unit norm again; all of them when None.

    ``vectors`` has shape (rows, dim). Raises BadInput when dimensions is not in 1..dim. Cutting is meant
    for models trained for it (Kusupati et al., Matryoshka Representation Learning, 2022); on others it
    costs quality, which is the caller's choice.
    """
    available = vectors.shape[1]
    if dimensions is None or dimensions == available:
        return vectors
    if not 1 <= dimensions <= available:
        raise BadInput(
            f"dimensions is {dimensions}; this model gives between 1 and {available}.", pointer="/dimensions"
        )
    return unit(vectors[:, :dimensions])


def unit(vectors: Vectors) -> Vectors:
    """Return the rows of (rows, dim) scaled to Euclidean norm 1; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled
