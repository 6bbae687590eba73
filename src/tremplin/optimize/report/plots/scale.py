"""From values to places in a picture: ranges that end on round numbers, and their ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isclose, isfinite, log2, log10

from tremplin.optimize.report.numbers import SCIENTIFIC_FROM, number

# Beyond this a difference of two doubles can overflow.
LARGEST = 1e300
# A range narrower than this share of its values would need ticks of more than six digits.
NARROWEST = 1e-6
MOST_TICKS = 8


@dataclass(frozen=True)
class Scale:
    """A range of values laid along a range of units; ``start`` may lie right of or below ``end``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    decimals: int
    start: float = 0.0
    end: float = 1.0
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of ``value``, kept inside the range."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, at = log2(low), log2(high), log2(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def between(self, start: float, end: float) -> Scale:
        """Return the same scale laid between two places."""
        return Scale(self.low, self.high, self.ticks, self.decimals, start, end, self.is_log)

    @property
    def has_break(self) -> bool:
        """Return whether zero lies outside, which the picture then has to state."""
        return not self.is_log and (self.low > 0 or self.high < 0)

    def label(self, value: float) -> str:
        """Return a tick's number."""
        if abs(value) >= SCIENTIFIC_FROM:
            return f"{value:.3g}"
        words = number(value, self.decimals)
        # The ticks of a logarithmic scale are of different magnitude: 0.05 and 20, not 20.00.
        return words.rstrip("0").rstrip(".") if self.is_log and "." in words else words


def finite(values: Sequence[float]) -> list[float]:
    """Return the finite values, huge ones brought to where arithmetic still works."""
    return [min(max(value, -LARGEST), LARGEST) for value in values if isfinite(value)]


def linear_scale(
    values: Sequence[float], *, from_zero: bool = False, at_most: float | None = None, steps: int = 4
) -> Scale:
    """Return a range around ``values`` that ends on round numbers.

    It starts at zero when asked, or when the values leave less than half of it empty. ``at_most`` is a value
    the quantity cannot pass (a share cannot pass 1), so the range does not either.
    """
    known = finite(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    if from_zero or 0 <= low <= high / 2 or (low < 0 < high):
        low, high = min(low, 0.0), max(high, 0.0)
    low, high = _widened(low, high)
    step = _round_step((high - low) / steps)
    first, last = floor(low / step), ceil(high / step)
    if at_most is not None and last * step > at_most >= max(known):
        last = floor(at_most / step + 1e-9)
        ticks = [tick * step for tick in range(first, last + 1)]
        high = max(at_most, ticks[-1] if ticks else at_most)
    else:
        ticks = [tick * step for tick in range(first, last + 1)]
        high = last * step
    decimals = min(max(-floor(log10(step) + 1e-9), 0), 12)
    return Scale(first * step, high, tuple(ticks), decimals)


def log2_scale(values: Sequence[float]) -> Scale | None:
    """Return a scale of doublings when all values are powers of two and at least two differ."""
    known = sorted(set(finite(values)))
    if len(known) < 2 or known[0] <= 0 or not all(log2(value).is_integer() for value in known):
        return None
    decimals = max(0, -int(log2(known[0])))
    return Scale(known[0], known[-1], tuple(known), min(decimals, 12), is_log=True)


def log_scale(values: Sequence[float]) -> Scale | None:
    """Return a scale on which equal ratios are equally far apart, with ticks at 1, 2 and 5 times powers of ten.

    None unless all values are above zero.
    """
    known = finite(values)
    if not known or min(known) <= 0:
        return None
    first, last = floor(log10(min(known))) - 1, ceil(log10(max(known))) + 1
    marks = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    low = max(mark for mark in marks if mark <= min(known) * (1 + 1e-9))
    high = min(mark for mark in marks if mark >= max(known) * (1 - 1e-9) and mark > low)
    ticks = [mark for mark in marks if low <= mark <= high]
    if len(ticks) > MOST_TICKS:
        ticks = [mark for mark in ticks if isclose(mark, 10.0 ** round(log10(mark)))]
    decimals = min(max(-floor(log10(low) + 1e-9), 0), 12)
    return Scale(low, high, tuple(ticks), decimals, is_log=True)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not empty: equal values stand in the middle of it."""
    largest = max(abs(low), abs(high))
    if high - low > max(largest * NARROWEST, 1e-12):
        return low, high
    pad = largest * 0.05 if largest > 1e-9 else 0.5
    return low - pad, high + pad


def _round_step(raw: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is not below ``raw``."""
    power = 10.0 ** floor(log10(raw))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= raw * (1 - 1e-9)), 10 * power)
