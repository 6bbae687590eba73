"""Which waiting rows make the next batch: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tremplin.serve.costs import CostModel

# How many of the oldest rows are looked at; bounds the work of one decision.
WINDOW = 512
# Of those the older half competes for a batch, and not fewer than this. More competitors pad less and wait longer:
# docs/decisions/0012.
LEAST_COMPETING = 32


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

    The older half of the rows competes. The row that must go is the oldest. When rows are ``overdue`` (indices,
    the most overdue first), it is the first of them, and only overdue rows go with it.
    """
    candidates = overdue or range(min(len(lengths), max(LEAST_COMPETING, len(lengths) // 2)))
    anchor = candidates[0]
    width = lengths[anchor]
    # Sorting keeps the order of arrival among rows of one length: the older goes first on both sides.
    longer = sorted((i for i in candidates if i != anchor and lengths[i] >= width), key=lengths.__getitem__)
    shorter = sorted((i for i in candidates if lengths[i] < width), key=lambda i: -lengths[i])
    chosen, useful = [anchor], costs.row_s(width)
    best, kept, stopped_by = useful / costs.batch_s(1, width), 1, Release.ALL
    above = below = 0
    while above < len(longer) or below < len(shorter):
        rows = len(chosen) + 1
        if rows > limits.max_rows:
            stopped_by = Release.ROWS
            break
        up = down = -1.0  # the share of useful work with one row more from either side; -1 for none that fits
        if above < len(longer) and rows * lengths[longer[above]] <= limits.max_tokens:
            length = lengths[longer[above]]
            up = (useful + costs.row_s(length)) / costs.batch_s(rows, length)
        if below < len(shorter) and rows * width <= limits.max_tokens:
            down = (useful + costs.row_s(lengths[shorter[below]])) / costs.batch_s(rows, width)
        if up < 0 and down < 0:
            stopped_by = Release.TOKENS
            break
        if up >= down:
            chosen.append(longer[above])
            width, above = lengths[longer[above]], above + 1
        else:
            chosen.append(shorter[below])
            below += 1
        useful += costs.row_s(lengths[chosen[-1]])
        if max(up, down) >= best:
            best, kept = max(up, down), rows
    if kept < len(chosen) or (stopped_by is Release.ALL and kept < len(lengths)):
        stopped_by = Release.COST
    chosen = chosen[:kept]
    if overdue:
        return Cut(chosen, Release.OVERDUE)
    return Cut(chosen, stopped_by)
