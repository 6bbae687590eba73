"""How long a batch takes: learned from measured shapes, refined while serving.

The model is a sum of terms that are each known to cost something and can only cost more (non-negative least
squares on relative errors): starting a batch, starting a row, a token, a pair of tokens that attend to each
other, and tokens beyond what the caches hold. It predicts the time of a batch for the batcher, and the time a
queue takes to drain for admission.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tremplin.registry.passport import BatchCosts, CostError, Throughput

# Where a batch outgrows the caches differs by machine; a knee that does not exist gets the weight 0.
KNEES = (128, 512)

# One batch moves what was learned by so much: a slow neighbour for a second must not turn the choice of batches.
LEARNING = 0.05
# Beyond this a single batch says more about the machine's other tenants than about its shape.
OUTLIER = 4.0

LEAST_TOKEN_S = 1e-9

# What a batch may give away of the best throughput for being short: everyone waits for it, whatever his class.
NEAR_BEST = 0.06
WIDTH = 16  # tokens of a typical short text

Floats = NDArray[np.float64]


class CostModel:
    """Predicted seconds of a batch, by rows and width. Shared by the engine's threads and the event loop.

    What is refined online is one factor for everything (the machine is slower today), one for each power of two
    of padded tokens, and the overhead of the batches that a backlog makes. Reads and writes of single floats
    need no lock.
    """

    def __init__(self, costs: BatchCosts) -> None:
        self.costs = costs
        self.drift = 1.0
        """Observed over predicted seconds, of late."""
        size = token_budget(costs)
        self._overhead = self._batch(size // WIDTH, size, WIDTH) / (size // WIDTH * self._row(WIDTH))
        self._by_size = [1.0] * 24
        self.row_s = lru_cache(maxsize=4096)(self._row)
        """The seconds that are a row's own, by its tokens: what it adds to a batch that has no padding."""

    @property
    def seconds_per_work(self) -> float:
        """Seconds that pass for a second of rows' own work while batches are full."""
        return self._overhead * self.drift

    def batch_s(self, rows: int, width: int) -> float:
        """Return the predicted seconds of a batch of ``rows`` rows padded to ``width`` tokens."""
        tokens = rows * width
        return self._batch(rows, tokens, width) * self._by_size[tokens.bit_length()]

    def observe(self, rows: int, width: int, seconds: float) -> None:
        """Learn from a batch that was run; called from engine threads."""
        expected = self.batch_s(rows, width) * self.drift
        ratio = min(OUTLIER, max(1 / OUTLIER, seconds / expected)) if expected > 0 else 1.0
        # The common factor learns first: what is left over belongs to the shape.
        self.drift *= ratio**LEARNING
        size = (rows * width).bit_length()
        self._by_size[size] = min(2.0, max(0.5, self._by_size[size] * ratio ** (LEARNING / 4)))

    def observe_backlog(self, batch_s: float, work_s: float) -> None:
        """Learn what a batch cut from a backlog costs beyond its rows' own work."""
        if work_s > 0:
            self._overhead += LEARNING * (batch_s / work_s - self._overhead)

    def _row(self, tokens: int) -> float:
        c = self.costs
        return c.row_s + c.token_s * tokens + c.pair_s * tokens * tokens

    def _batch(self, rows: int, tokens: int, width: int) -> float:
        return _seconds(self.costs, rows, tokens, width)


def token_budget(costs: BatchCosts, width: int = WIDTH, largest: int = 1024) -> int:
    """Return how many padded tokens a batch should hold: more would cost latency and gain nothing.

    It is the smallest power of two at which the share of useful work comes within NEAR_BEST of the best, for rows
    of ``width`` tokens and up to ``largest`` tokens, the largest batch measured and so known to fit memory.
    """
    sizes = [1 << power for power in range(width.bit_length() - 1, largest.bit_length())]
    row_s = costs.row_s + costs.token_s * width + costs.pair_s * width * width
    shares = [size / width * row_s / _seconds(costs, size // width, size, width) for size in sizes]
    best = max(shares)
    return next(size for size, share in zip(sizes, shares, strict=True) if share >= (1 - NEAR_BEST) * best)


def fit(measured: Sequence[Throughput]) -> BatchCosts:
    """Return the costs that fit the measured shapes best, with the error on shapes the fit has not seen.

    The error is of the other half of the shapes (every second one, by size): median and 90th percentile of
    |predicted / measured - 1|. Raises ValueError when nothing was measured.
    """
    if not measured:
        raise ValueError("the costs of a batch cannot be learned from no batch")
    ordered = sorted(measured, key=lambda shape: (shape.tokens, shape.rows))
    halves = ordered[::2], ordered[1::2]
    errors = [
        abs(predicted / _batch_seconds(shape) - 1)
        for seen, held_out in (halves, halves[::-1])
        if len(seen) >= 2
        for shape in held_out
        for predicted in [_predict(_solve(seen), shape)]
    ]
    error = CostError(
        median=float(np.median(errors)) if errors else math.nan,
        p90=float(np.quantile(errors, 0.9)) if errors else math.nan,
        n=len(errors),
    )
    batch_s, row_s, token_s, pair_s, *beyond = _solve(ordered)
    # A token costs something, however little a small model shows it: work is counted in it.
    return BatchCosts(
        batch_s, row_s, max(token_s, LEAST_TOKEN_S), pair_s, tuple(zip(KNEES, beyond, strict=True)), error
    )


def _predict(weights: list[float], shape: Throughput) -> float:
    return float(np.dot(weights, _features(shape.rows, shape.tokens)))


def _batch_seconds(shape: Throughput) -> float:
    return shape.rows / shape.texts_per_s


def _features(rows: int, width: int) -> list[float]:
    tokens = rows * width
    return [1.0, rows, tokens, tokens * width, *(max(0, tokens - knee) for knee in KNEES)]


def _seconds(costs: BatchCosts, rows: int, tokens: int, width: int) -> float:
    seconds = costs.batch_s + costs.row_s * rows + costs.token_s * tokens + costs.pair_s * tokens * width
    for knee, cost in costs.knees:
        if tokens > knee:
            seconds += cost * (tokens - knee)
    return seconds


def _solve(shapes: Sequence[Throughput]) -> list[float]:
    seconds = np.array([_batch_seconds(shape) for shape in shapes])
    features = np.array([_features(shape.rows, shape.tokens) for shape in shapes])
    # Relative errors count: a microsecond of 1 ms is worth a millisecond of 1 s.
    solved: list[float] = non_negative_least_squares(features / seconds[:, None], np.ones(len(shapes))).tolist()
    return solved


def non_negative_least_squares(matrix: Floats, target: Floats) -> Floats:
    """Return x >= 0 that minimises |matrix @ x - target|, for a handful of columns.

    Every set of active columns is tried: with six columns that is 64 small solves, exact, and shorter than the
    active-set method it stands for. Source: Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 23.
    """
    columns = matrix.shape[1]
    scale = np.abs(matrix).max(axis=0)
    scaled = matrix / np.where(scale > 0, scale, 1)
    best, best_error = np.zeros(columns), float("inf")
    for size in range(1, columns + 1):
        for active in itertools.combinations(range(columns), size):
            part, *_ = np.linalg.lstsq(scaled[:, active], target, rcond=None)
            if (part < 0).any():
                continue
            error = float(((scaled[:, active] @ part - target) ** 2).sum())
            if error < best_error - 1e-12:
                best_error = error
                best = np.zeros(columns)
                best[list(active)] = part
    found: Floats = best / np.where(scale > 0, scale, 1)
    return found
