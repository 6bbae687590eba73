"""Which waiting rows make the next batch: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may get."""

    max_tokens: int = 512
    """Padded tokens: rows times the longest row. Larger batches gain nothing on a CPU (benchmarks/)."""
    max_rows: int = 64
    window: int = 512
    """How many of the oldest rows compete; bounds the work of one decision."""


def choose(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Return the indices of the rows for the next batch, given the waiting rows' lengths, oldest first.

    The oldest row always goes (no starvation); the others are those nearest to it in length, as long as the
    padded size stays within the limits, so that little of the batch is padding. When everything fits
    without padding beyond the limit, everything goes: there is no timer.
    """
    count = min(len(lengths), limits.window)
    longest = max(lengths[:count])
    if count <= limits.max_rows and count * longest <= limits.max_tokens:
        return list(range(count))
    order = sorted(range(count), key=lengths.__getitem__)
    anchor = order.index(0)
    low = high = anchor
    width = lengths[0]
    while True:
        rows = high - low + 1
        shorter_gap = lengths[0] - lengths[order[low - 1]] if low > 0 else None
        longer_gap = lengths[order[high + 1]] - lengths[0] if high + 1 < count else None
        grow_longer = longer_gap is not None and (shorter_gap is None or longer_gap < shorter_gap)
        if grow_longer:
            widened = max(width, lengths[order[high + 1]])
            if rows + 1 <= limits.max_rows and (rows + 1) * widened <= limits.max_tokens:
                high, width = high + 1, widened
                continue
        if shorter_gap is not None and rows + 1 <= limits.max_rows and (rows + 1) * width <= limits.max_tokens:
            low -= 1
            continue
        return order[low : high + 1]
