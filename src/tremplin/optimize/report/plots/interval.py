"""Values with their intervals, one under the other, against the bounds they promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from tremplin.optimize.report.numbers import NOT_MEASURED, interval, with_unit
from tremplin.optimize.report.plots.axes import Box, empty_chart, small, x_axis
from tremplin.optimize.report.plots.scale import Scale, finite, linear_scale
from tremplin.optimize.report.plots.svg import (
    WIDTH,
    described,
    document,
    fit,
    heading,
    line,
    tag,
    text,
    text_width,
)

ROW_HEIGHT = 42.0
BOUND_HEIGHT = 13.0


@dataclass(frozen=True)
class IntervalRow:
    """One value with its interval, and the bound it has to respect."""

    label: str
    value: float
    low: float
    high: float
    bound: float | None = None
    is_met: bool | None = None
    """Whether the evidence supports the bound; a row that fails it is hollow and says so."""


def interval_chart(title: str, rows: Sequence[IntervalRow], *, unit: str = "") -> str:
    """Return a picture of values (dots), intervals (bars) and bounds (marks) on one axis.

    The label and the numbers stand on the line above each bar, so long names fit on a phone. The axis leaves
    zero out where the values lie far from it, and says so.
    """
    head, top = heading(title)
    description = "; ".join(_in_words(row, unit) for row in rows)
    if not rows:
        return empty_chart(title)
    area = Box(8, top, WIDTH - 8, top + sum(_row_height(row) for row in rows))
    scale = _scale(rows, unit).between(area.left, area.right)
    drawn = [head, x_axis(scale, area, unit)]
    for row in rows:
        drawn.append(_row(row, scale, top, unit))
        top += _row_height(row)
    return document(title, description, drawn, height=area.bottom + 38)


def _scale(rows: Sequence[IntervalRow], unit: str) -> Scale:
    values = [value for row in rows for value in (row.value, row.low, row.high, row.bound) if value is not None]
    whole = 100.0 if unit.startswith("%") else 1.0
    known = finite(values)
    is_share = all(0 <= value <= whole for value in known)
    return linear_scale(values, at_most=whole if is_share and known else None)


def _row_height(row: IntervalRow) -> float:
    return ROW_HEIGHT + (BOUND_HEIGHT if _known(row.bound) else 0)


def _row(row: IntervalRow, scale: Scale, top: float, unit: str) -> str:
    numbers = interval(row.value, row.low, row.high, unit=unit)
    room = WIDTH - text_width(numbers) - 12
    drawn = [
        text(4, top + 14, fit(row.label, room)),
        text(WIDTH - 4, top + 14, numbers, text_anchor="end", class_="plot-number"),
        _bar(row, scale, top + 27),
    ]
    if _known(row.bound):
        drawn.append(_bound(row, scale, top + 27, unit))
    return tag("g", described(_in_words(row, unit)) + "".join(drawn))


def _bar(row: IntervalRow, scale: Scale, y: float) -> str:
    if not isfinite(row.value):
        return ""
    tone = "plot-bad" if row.is_met is False else "plot-accent"
    drawn = ""
    if isfinite(row.low) and isfinite(row.high) and row.low != row.high:
        low, high = scale(row.low), scale(row.high)
        drawn = line(low, y, high, y, stroke_width=3, stroke_opacity=0.55)
        drawn += line(low, y - 4, low, y + 4) + line(high, y - 4, high, y + 4)
    hollow = row.is_met is False
    dot = tag(
        "circle",
        cx=scale(row.value),
        cy=y,
        r=4.5,
        class_="plot-dot-hollow" if hollow else None,
        fill="none" if hollow else "currentColor",
        stroke="currentColor",
        stroke_width=2,
    )
    return tag("g", drawn + dot, class_=tone)


def _bound(row: IntervalRow, scale: Scale, y: float, unit: str) -> str:
    at = scale(row.bound or 0.0)
    words = f"bound {_bound_number(row, unit)}" + (", not proven" if row.is_met is False else "")
    half = text_width(words, 11.5) / 2
    mark = line(at, y - 8, at, y + 9, class_="plot-bound", stroke_width=1.5, stroke_dasharray="3 2")
    return mark + small(min(max(at, half), WIDTH - half), y + 20, words, text_anchor="middle")


def _in_words(row: IntervalRow, unit: str) -> str:
    words = f"{row.label}: {interval(row.value, row.low, row.high, unit=unit)}"
    return f"{words}, bound {_bound_number(row, unit)}" if _known(row.bound) else words


def _bound_number(row: IntervalRow, unit: str) -> str:
    return with_unit(f"{row.bound:g}", unit) if row.bound is not None else NOT_MEASURED


def _known(bound: float | None) -> bool:
    return bound is not None and isfinite(bound)
