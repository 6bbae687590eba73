"""Quality of a version against its reference, with intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import BadInput
from tremplin.optimize.run_graph import run_alone, run_rows
from tremplin.registry.passport import Bound, Metric, extreme_metric, mean_metric, share_metric
from tremplin.registry.task import Task
from tremplin.serve.engine import Engine

Array = NDArray[np.float32]

# Held by the pessimistic end of each interval. The agreement is asked for over texts that are no real queries,
# whose best passages are nearly tied: 0.97 is measured where real queries (benchmarks/) give 0.98.
EMBEDDING_BOUNDS = (
    Bound("cosine_mean", at_least=0.995),
    Bound("cosine_min", at_least=0.98),
    Bound("retrieval_agreement", at_least=0.93),
    Bound("batch_dependence", at_most=0.02),
)
CLASSIFICATION_BOUNDS = (
    Bound("label_agreement", at_least=0.97),
    Bound("batch_dependence", at_most=0.02),
)

# Rows run once alone and once in a batch to see whether neighbours change an answer.
INVARIANCE_ROWS = 96


def default_bounds(task: Task) -> tuple[Bound, ...]:
    """Return what a quantized version promises unless the user says otherwise."""
    return EMBEDDING_BOUNDS if task is Task.EMBEDDING else CLASSIFICATION_BOUNDS


def read_bound(text: str) -> Bound:
    """Return the bound written as ``metric>=value`` or ``metric<=value``; raises BadInput."""
    match = re.fullmatch(r"\s*([a-z_]+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*", text)
    try:
        if match is None:
            raise ValueError
        value = float(match.group(3))
    except ValueError:
        raise BadInput(f"{text!r} is not a bound; write one such as 'cosine_mean>=0.995'.") from None
    at_least = match.group(2) == ">="
    return Bound(match.group(1), at_least=value if at_least else None, at_most=None if at_least else value)


def embedding_metrics(
    reference: Array, candidate: Array, reference_passages: Array, candidate_passages: Array
) -> list[Metric]:
    """Return how near a version's unit vectors are to the reference's, and whether search agrees.

    ``reference`` and ``candidate`` are (texts, dim), the passages (passages, dim). Retrieval agreement is
    the share of texts whose nearest passage is the same in both; a text that is itself a passage does not
    count, since it always finds itself.
    """
    cosines = np.clip((reference * candidate).sum(axis=1), -1, 1)
    before = reference @ reference_passages.T
    after = candidate @ candidate_passages.T
    searching = before.max(axis=1) < 0.9999
    same = before[searching].argmax(axis=1) == after[searching].argmax(axis=1)
    return [
        mean_metric("cosine_mean", [float(c) for c in cosines]),
        extreme_metric("cosine_min", float(cosines.min()), len(cosines)),
        share_metric("retrieval_agreement", int(same.sum()), len(same)),
    ]


def classification_metrics(
    reference: Array, candidate: Array, labels: Sequence[str], truth: Sequence[str]
) -> list[Metric]:
    """Return how often two versions give the same label, and the accuracy when the truth is known.

    ``reference`` and ``candidate`` are probabilities (texts, labels).
    """
    before, after = reference.argmax(axis=1), candidate.argmax(axis=1)
    metrics = [
        share_metric("label_agreement", int((before == after).sum()), len(before)),
        extreme_metric("probability_difference_max", float(np.abs(reference - candidate).max()), len(before)),
    ]
    if truth:
        names = np.array(labels)
        right = np.array(truth)
        metrics.append(share_metric("accuracy", int((names[after] == right).sum()), len(right)))
        metrics.append(share_metric("accuracy_reference", int((names[before] == right).sum()), len(right)))
    return metrics


def batch_dependence(engine: Engine, rows: Sequence[Sequence[int]], output: str) -> Metric:
    """Return the largest difference of any output component between a text alone and in a batch."""
    sample = list(rows[:INVARIANCE_ROWS])
    alone = np.stack(run_alone(engine, sample, output))
    together = np.stack(run_rows(engine, sample, output))
    return extreme_metric("batch_dependence", float(np.abs(alone - together).max()), len(sample))
