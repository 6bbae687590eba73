"""Which waiting rows make the next batch: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tremplin.serve.costs import CostModel

# How many of the oldest rows compete for a batch; bounds the work of one decision.
WINDOW = 512


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may get."""

    max_tokens: int = 512
    """Padded tokens: rows times the longest row. A single row may have more."""
    max_rows: int = 64


class Release(StrEnum):
    """Why a batch was cut where it was."""

    ALL = "all"
    """Everything that waited went."""
    TOKENS = "tokens"
    """The next row would have passed the token budget."""
    ROWS = "rows"
    """It has as many rows as a batch may have."""
    COST = "cost"
    """More rows would have cost more than they bring: padding, or a working set beyond the caches."""
    OVERDUE = "overdue"
    """Rows went that others had overtaken for long enough."""
    ISOLATED = "isolated"
    """A part of a batch that failed, run again to find the row that makes it fail."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The decision."""

    chosen: list[int]
    """Indices into the waiting rows."""
    release: Release


def choose(lengths: Sequence[int], costs: CostModel, limits: BatchLimits, overdue: Sequence[int] = ()) -> Cut:
    """Return the rows of the next batch, given the lengths of those that wait, oldest first.

    Around one row that must go, in the order of length, the batch grows on whichever side costs less, up to the
    limits; of all the sizes it passes through, the one with the largest share of useful work is kept: what its
    rows need, over what the batch is predicted to take. There is no timer: what is left waits for the next
    batch only because computing it now would be slower.

    The row that must go is the oldest. When rows are ``overdue`` (indices, the most overdue first), it is the
    first of them, and only overdue rows go with it.
    """
    candidates = list(overdue) if overdue else list(range(min(len(lengths), WINDOW)))
    order = sorted(candidates, key=lengths.__getitem__)
    low = high = order.index(candidates[0])
    width = lengths[candidates[0]]
    useful = costs.row_s(width)
    best, kept = useful / costs.batch_s(1, width), (low, high)
    stopped_by = Release.ALL
    while True:
        rows = high - low + 2
        if rows - 1 == len(order):
            break
        if rows > limits.max_rows:
            stopped_by = Release.ROWS
            break
        shorter = order[low - 1] if low > 0 and rows * width <= limits.max_tokens else None
        longer = order[high + 1] if high + 1 < len(order) else None
        if longer is not None and rows * lengths[longer] > limits.max_tokens:
            longer = None
        if shorter is None and longer is None:
            stopped_by = Release.TOKENS
            break
        with_shorter = with_longer = 0.0
        if shorter is not None:
            with_shorter = (useful + costs.row_s(lengths[shorter])) / costs.batch_s(rows, width)
        if longer is not None:
            with_longer = (useful + costs.row_s(lengths[longer])) / costs.batch_s(rows, lengths[longer])
        if longer is not None and with_longer >= with_shorter:
            high, width, share = high + 1, lengths[longer], with_longer
            useful += costs.row_s(width)
        else:
            assert shorter is not None  # one of them fits
            low, share = low - 1, with_shorter
            useful += costs.row_s(lengths[shorter])
        if share >= best:
            best, kept = share, (low, high)
    chosen = order[kept[0] : kept[1] + 1]
    if overdue:
        return Cut(chosen, Release.OVERDUE)
    if len(chosen) == len(lengths):
        return Cut(chosen, Release.ALL)
    return Cut(chosen, stopped_by if kept == (low, high) else Release.COST)
