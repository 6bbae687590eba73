"""Running a graph over many texts, outside of serving."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tremplin.serve.batch import BatchLimits, choose
from tremplin.serve.engine import Engine, pad

Array = NDArray[np.float32]


def run_rows(
    engine: Engine, rows: Sequence[Sequence[int]], output: str, *, limits: BatchLimits | None = None
) -> list[Array]:
    """Return one output for each row of token ids, in order; batches hold rows of near lengths."""
    limits = limits or BatchLimits()
    waiting = list(range(len(rows)))
    results: list[Array] = [np.zeros(0, np.float32)] * len(rows)
    while waiting:
        chosen = choose([len(rows[i]) for i in waiting[: limits.window]], limits)
        batch = [waiting[i] for i in chosen]
        for i, value in zip(batch, engine.run(pad([rows[i] for i in batch]))[output], strict=True):
            results[i] = value
        gone = set(batch)
        waiting = [i for i in waiting if i not in gone]
    return results


def run_alone(engine: Engine, rows: Sequence[Sequence[int]], output: str) -> list[Array]:
    """Return one output for each row, each computed in a batch of its own."""
    return [engine.run(pad([row]))[output][0] for row in rows]
