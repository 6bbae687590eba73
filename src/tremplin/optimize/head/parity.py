"""The after-condition of training: the written graph answers as the head that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tremplin.errors import PassFailed
from tremplin.optimize.head.attach import EMBEDDING, LOGITS, PROBABILITIES
from tremplin.optimize.head.logistic import Logistic, softmax

Floats32 = NDArray[np.float32]

ROWS = 16
TOLERANCE = 1e-5
"""Of a probability. The graph computes the head in float32, NumPy in float64."""
MIN_COSINE = 0.99
"""Between ``encode``'s features and the graph's embedding: int8 rounding in another batch stays above it,
another model or another pooling falls below."""


def probe_rows(n: int) -> NDArray[np.int64]:
    """Return up to ``ROWS`` row numbers spread over n rows."""
    return np.unique(np.linspace(0, n - 1, ROWS).astype(np.int64))


def check_head_parity(
    graph: Path,
    head: Logistic,
    temperature: float,
    feeds: Mapping[str, NDArray[np.int64]],
    features: Floats32,
) -> None:
    """Run the written graph on ``feeds`` and compare it with NumPy; raises PassFailed.

    ``features`` (n, dim) are what the head was trained on for the same texts. The head is compared on the
    graph's own embedding, to rounding; that embedding with the features, to what quantization may move.
    """
    embedding, logits, probabilities = _run(graph, feeds)
    gap = float(np.abs(probabilities - head.probabilities(embedding, temperature)).max())
    if not gap <= TOLERANCE:  # a NaN fails too
        raise PassFailed(
            f"The graph's probabilities differ from the head's by {gap:.2g}; at most {TOLERANCE:g} was "
            "expected. This is a bug: please report it with the encoder's name."
        )
    gap = float(np.abs(softmax(logits.astype(np.float64)) - probabilities).max())
    if not gap <= TOLERANCE:
        raise PassFailed(f"The graph's probabilities are not the softmax of its logits ({gap:.2g}): a bug.")
    cosine = _least_cosine(embedding, features)
    if not cosine >= MIN_COSINE:
        raise PassFailed(
            f"The features the head learned from are not the embedding of {graph.name}: their cosine "
            f"falls to {cosine:.3f}, at least {MIN_COSINE} was expected. "
            "Encode with the graph that carries the head."
        )


def _least_cosine(left: Floats32, right: Floats32) -> float:
    """Return the least cosine between rows of two (n, dim) arrays."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((np.einsum("ij,ij->i", left, right) / np.maximum(norms, 1e-12)).min())


def _run(graph: Path, feeds: Mapping[str, NDArray[np.int64]]) -> tuple[Floats32, Floats32, Floats32]:
    """Return embedding, logits and probabilities of the graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        embedding, logits, probabilities = session.run([EMBEDDING, LOGITS, PROBABILITIES], dict(feeds))
    except Exception as error:  # ONNX Runtime raises classes of its own, without a public base
        raise PassFailed(f"The written graph {graph.name} does not run: {error}") from None
    return embedding, logits, probabilities
