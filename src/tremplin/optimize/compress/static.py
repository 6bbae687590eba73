"""A student without layers: a sentence is the mean of its pieces' vectors, and of pairs of neighbours.

Nothing is left to compute but look-ups, so it is an order of magnitude faster than one layer. The vectors begin
as what the teacher says of each piece alone, reduced by principal components (the idea of model2vec: Tulkens and
van Dongen 2024), and are then taught like any student's. Rows for pairs of neighbours (hashed, as in fastText:
Joulin et al. 2017) give back some of the word order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import PassFailed
from tremplin.optimize.importing.encoder_weights import EncoderWeights, Linear, Norm
from tremplin.optimize.importing.families import Positions
from tremplin.optimize.importing.sentence_modules import Dense, Normalize, Pooling
from tremplin.optimize.network.network import Head, Network, fresh_head
from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.training.answers import answer

Array = NDArray[np.float32]

UNUSED_POSITION = 0.0


def static_student(
    teacher: Network, *, width: int, bigram_rows: int = 0, inner: int = 0, seed: int = 0
) -> Network:
    """Return a student without layers, its word vectors taken from the teacher.

    ``width`` is that of the vectors, ``bigram_rows`` the rows for hashed pairs (0 for none), ``inner`` the width
    of a layer between the sentence vector and the head (0 for none).
    Raises PassFailed when the width is not below the teacher's and above 0.
    """
    if not 0 < width <= teacher.hidden_size:
        raise PassFailed(f"The width must lie between 1 and the teacher's {teacher.hidden_size}, not {width}.")
    vectors = reduced(piece_vectors(teacher), width)
    random = np.random.default_rng([seed, 13])
    weights = EncoderWeights(
        word=vectors,
        position=np.full((len(teacher.weights.position), width), UNUSED_POSITION, np.float32),
        token_type=None,
        norm=Norm(np.ones(width, np.float32), np.zeros(width, np.float32)),
        projection=None,
        relative_bias=None,
        layers=(),
        bigram=random.normal(0, 0.1, (bigram_rows, width)).astype(np.float32) if bigram_rows else None,
    )
    spec = replace(
        teacher.spec, embedding_size=width, hidden_size=width, heads=1, layers=0, relative_buckets=0,
        positions=Positions.FROM_ZERO, position_rows=len(weights.position),
    )  # fmt: skip
    student = replace(teacher, spec=spec, weights=weights, steps=_steps(teacher, width, inner, random))
    if teacher.head is None:
        return student
    return replace(student, head=_head(teacher, student.embedding_dim, seed))


def piece_vectors(teacher: Network) -> Array:
    """Return what the teacher says of each piece alone between its first and last special tokens, (words, dim)."""
    module = TorchNetwork(replace(teacher, head=None))
    return answer(module, [[number] for number in range(teacher.vocab_size)]).embeddings


def reduced(vectors: Array, width: int) -> Array:
    """Return the vectors in their first principal components, each column of them with the mean variance 1."""
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred.T @ centred)
    projected = centred @ axes[:width].T
    scaled: Array = (projected / max(float(projected.std()), 1e-6)).astype(np.float32)
    return scaled


def _steps(
    teacher: Network, width: int, inner: int, random: np.random.Generator
) -> tuple[Pooling | Dense | Normalize, ...]:
    steps: list[Pooling | Dense | Normalize] = [Pooling(("mean",))]
    out = inner if teacher.head is not None else teacher.embedding_dim
    if out:
        weight = random.normal(0, width**-0.5, (out, width)).astype(np.float32)
        activation = "relu" if teacher.head is not None else "identity"
        steps.append(Dense(Linear(weight, np.zeros(out, np.float32)), activation))
    if any(isinstance(step, Normalize) for step in teacher.steps):
        steps.append(Normalize())
    return tuple(steps)


def _head(teacher: Network, width: int, seed: int) -> Head:
    return fresh_head(width, len(teacher.labels), seed=seed)
