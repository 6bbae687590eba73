"""Running a graph over many texts, outside of serving."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tremplin.serve.engine import Engine, pad

Array = NDArray[np.float32]

MAX_TOKENS = 512
MAX_ROWS = 64


def run_rows(engine: Engine, rows: Sequence[Sequence[int]], output: str) -> list[Array]:
    """Return one output for each row of token ids, in order; batches hold rows of near lengths."""
    waiting = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    results: list[Array] = [np.zeros(0, np.float32)] * len(rows)
    while waiting:
        width, count = len(rows[waiting[-1]]), 1
        while count < min(len(waiting), MAX_ROWS) and (count + 1) * width <= MAX_TOKENS:
            count += 1
        batch, waiting = waiting[-count:], waiting[:-count]
        for row, value in zip(batch, engine.run(pad([rows[row] for row in batch]))[output], strict=True):
            results[row] = value
    return results


def run_alone(engine: Engine, rows: Sequence[Sequence[int]], output: str) -> list[Array]:
    """Return one output for each row, each computed in a batch of its own."""
    return [engine.run(pad([row]))[output][0] for row in rows]
