"""Which waiting rows make the next batch: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may get, and what starting one costs."""

    max_tokens: int = 512
    """Padded tokens: rows times the longest row. Larger batches gain nothing on a CPU (benchmarks/)."""
    max_rows: int = 64
    window: int = 512
    """How many of the oldest rows compete; bounds the work of one decision."""
    start_tokens: int = 8
    """What a batch costs before its first token, in tokens: about 0.5 ms at 80 us a token."""


def choose(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Return the indices of the rows for the next batch, given the waiting rows' lengths, oldest first.

    The oldest row always goes: no row waits for ever. Around it, in the order of length, the batch grows on
    whichever side pads less, up to the limits; of all the sizes it passes through, the one with the largest
    share of useful work is kept, where the work of a batch is its padded tokens plus the cost of starting it.
    There is no timer: what is left waits for the next batch only because computing it now would be slower.
    """
    count = min(len(lengths), limits.window)
    order = sorted(range(count), key=lengths.__getitem__)
    low = high = order.index(0)
    useful = width = lengths[0]
    best, kept = useful / (limits.start_tokens + width), (low, high)
    while True:
        rows = high - low + 2
        shorter = lengths[order[low - 1]] if low > 0 and _fits(rows, width, limits) else None
        longer = lengths[order[high + 1]] if high + 1 < count else None
        if longer is not None and not _fits(rows, longer, limits):
            longer = None
        if shorter is None and longer is None:
            return order[kept[0] : kept[1] + 1]
        with_shorter = _share(useful, shorter, rows * width, limits)
        with_longer = _share(useful, longer, rows * (longer or 0), limits)
        if longer is not None and with_longer >= with_shorter:
            high, width, useful, share = high + 1, longer, useful + longer, with_longer
        else:
            low, useful, share = low - 1, useful + (shorter or 0), with_shorter
        if share >= best:
            best, kept = share, (low, high)


def _fits(rows: int, width: int, limits: BatchLimits) -> bool:
    return rows <= limits.max_rows and rows * width <= limits.max_tokens


def _share(useful: int, added: int | None, padded: int, limits: BatchLimits) -> float:
    """The share of useful work once a row is added; none for a row that is not there."""
    return 0.0 if added is None else (useful + added) / (limits.start_tokens + padded)
