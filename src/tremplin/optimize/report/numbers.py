"""Numbers as people read them: unit, sensible digits, the interval beside the value.

Thousands are parted by a narrow no-break space (ISO 80000-1): a comma reads as a decimal in French.
"""

from __future__ import annotations

from math import floor, isfinite, log10

NARROW_SPACE = "\u202f"
NO_BREAK_SPACE = "\u00a0"
NOT_MEASURED = "not measured"

MAX_DECIMALS = 6
# From here on digits no longer help: 1.2e+07 is shorter and as exact as any measurement.
SCIENTIFIC_FROM = 1e7
SCIENTIFIC_BELOW = 1e-4


def number(value: float, decimals: int = 0) -> str:
    """Return ``value`` with a fixed number of decimals and parted thousands.

    >>> number(0.99312, 3), number(3.5)
    ('0.993', '4')
    """
    if not isfinite(value):
        return NOT_MEASURED
    if abs(value) >= SCIENTIFIC_FROM:
        return f"{value:.3g}"
    text = f"{value:,.{decimals}f}".replace(",", NARROW_SPACE)
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def significant(value: float, digits: int = 3) -> str:
    """Return ``value`` with about this many significant digits.

    >>> significant(3.8123), significant(0.0456), significant(734.2)
    ('3.81', '0.0456', '734')
    """
    if not isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    if abs(value) < SCIENTIFIC_BELOW:
        return f"{value:.{digits}g}"
    decimals = digits - 1 - floor(log10(abs(value)))
    return number(value, min(max(decimals, 0), 2 * MAX_DECIMALS))


def decimals_for(low: float, high: float, *, unit: str = "") -> int:
    """Return the decimals that show the leading digit of half an interval's width, and one more after a 1.

    A percentage has at least one, so that a column of them reads evenly.

    >>> decimals_for(0.9928, 0.9934), decimals_for(95.9, 96.5), decimals_for(1.0, 1.0)
    (4, 1, 4)
    """
    half = high / 2 - low / 2
    if not isfinite(half) or half <= 0:
        return _decimals_alone(high)
    leading = floor(log10(half))
    extra = 1 if half < 1.95 * 10.0**leading else 0
    return min(max(extra - leading, 1 if unit.startswith("%") else 0), MAX_DECIMALS)


def _decimals_alone(value: float) -> int:
    """Return the decimals of a value without an interval: a worst cosine of 0.99998 must not read as 1."""
    from_one = abs(1 - abs(value))
    if 0 < from_one < 5e-5:
        return min(-floor(log10(from_one)), 2 * MAX_DECIMALS)
    return 4 if abs(value) < 10 else 1


def with_unit(text: str, unit: str) -> str:
    """Return ``text`` and its unit, kept on one line."""
    return f"{text}{NO_BREAK_SPACE}{unit}" if unit and text != NOT_MEASURED else text


def interval(value: float, low: float, high: float, *, unit: str = "") -> str:
    """Return a value with its interval; a value without one stands alone.

    >>> interval(0.9931, 0.9928, 0.9934)
    '0.9931 [0.9928, 0.9934]'
    """
    decimals = decimals_for(low, high, unit=unit)
    if not (isfinite(low) and isfinite(high) and isfinite(value)) or low == high:
        return with_unit(alone(value), unit)
    shown = with_unit(number(value, decimals), unit)
    return f"{shown} [{number(low, decimals)}, {number(high, decimals)}]"


def count(value: float) -> str:
    """Return a count; a weighted one keeps its fraction.

    >>> count(14), count(2.5)
    ('14', '2.50')
    """
    return number(value) if value == floor(value) else significant(value)


def alone(value: float) -> str:
    """Return a value that has no interval: an extreme, an exact count.

    >>> alone(0.0), alone(0.9871), alone(0.9999982), alone(3e-7)
    ('0', '0.9871', '0.999998', '3e-07')
    """
    if value == 0 or abs(value) < SCIENTIFIC_BELOW:
        return significant(value, 2)
    return number(value, _decimals_alone(value))


def size(size_bytes: float) -> str:
    """Return a size in decimal units, as disks and registries count."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= factor:
            return with_unit(significant(size_bytes / factor), unit)
    return with_unit(number(size_bytes), "bytes")


def duration(ms: float) -> str:
    """Return a duration given in milliseconds, in the unit that keeps it short."""
    if ms >= 1000:
        return with_unit(significant(ms / 1000), "s")
    return with_unit(significant(ms, 3 if ms >= 1 else 2), "ms")


def rate(per_s: float) -> str:
    """Return a throughput in texts per second."""
    return with_unit(significant(per_s), "texts/s")


def times(ratio: float) -> str:
    """Return a ratio in words.

    >>> times(3.84), times(12.6)
    ('3.8 times', '13 times')
    """
    return f"{significant(ratio, 2)} times"
