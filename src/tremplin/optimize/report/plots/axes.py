"""Axes with units, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tremplin.optimize.report.plots.scale import Scale
from tremplin.optimize.report.plots.svg import (
    SMALL,
    WIDTH,
    document,
    fit,
    heading,
    line,
    tag,
    text,
    text_width,
)


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share some area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def is_inside(self, other: Box) -> bool:
        """Return whether all of this box lies within ``other``."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


def x_axis(scale: Scale, area: Box, label: str) -> str:
    """Return the axis under ``area``: ticks with numbers, the label below, a break where zero is left out."""
    drawn = [line(area.left, area.bottom, area.right, area.bottom, class_="plot-muted")]
    free_from = -1e9
    for tick in scale.ticks:
        at, words = scale(tick), scale.label(tick)
        half = text_width(words, SMALL) / 2
        drawn.append(line(at, area.bottom, at, area.bottom + 4, class_="plot-muted"))
        if at - half < free_from:
            continue
        centre = min(max(at, half), WIDTH - half)
        drawn.append(small(centre, area.bottom + 16, words, text_anchor="middle"))
        free_from = at + half + 6
    if scale.has_break:
        drawn.append(_break(area.left + 7, area.bottom, is_vertical=False))
    words = fit(with_start(label, scale), area.right, SMALL)
    drawn.append(small(area.right, area.bottom + 33, words, text_anchor="end"))
    return "".join(drawn)


def y_axis(scale: Scale, area: Box, label: str) -> str:
    """Return the axis left of ``area``: numbers, faint lines across, the label above."""
    drawn = []
    for tick in scale.ticks:
        at = scale(tick)
        drawn.append(line(area.left, at, area.right, at, class_="plot-grid", stroke_opacity=0.3))
        drawn.append(small(area.left - 6, at + 4, scale.label(tick), text_anchor="end"))
    if scale.has_break:
        drawn.append(_break(area.left, area.bottom - 7, is_vertical=True))
    drawn.append(small(0, area.top - 13, fit(with_start(label, scale), area.right, SMALL)))
    return "".join(drawn)


def y_axis_width(scale: Scale) -> float:
    """Return the room the numbers of a vertical axis need."""
    return max((text_width(scale.label(tick), SMALL) for tick in scale.ticks), default=0.0) + 8


def with_start(label: str, scale: Scale) -> str:
    """Return an axis label that says where the axis starts when that is not zero."""
    if not scale.has_break:
        return label
    start = f"axis starts at {scale.label(scale.low)}"
    return f"{label} ({start})" if label else start


def small(x: float, y: float, words: str, /, **attributes: str | float | None) -> str:
    """Return secondary text: smaller, in the muted colour."""
    return text(x, y, words, class_="plot-muted", font_size=SMALL, **attributes)


def empty_chart(title: str) -> str:
    """Return the picture of no values: the title, and that nothing was measured."""
    head, top = heading(title)
    nothing = small(0, top + 12, "Nothing was measured.")
    return document(title, "Nothing was measured.", [head, nothing], height=top + 20)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places as near as may be to the wanted ones, at least ``gap`` apart and within the range.

    When the range is too short for all, the gap shrinks evenly.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    places = [min(max(wanted[index], low), high) for index in order]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    places[-1] = min(places[-1], high)
    for index in range(len(places) - 2, -1, -1):
        places[index] = min(places[index], places[index + 1] - gap)
    found = dict(zip(order, places, strict=True))
    return [found[index] for index in range(len(wanted))]


def free_place(candidates: Iterable[Box], taken: Sequence[Box], area: Box) -> Box | None:
    """Return the first candidate inside ``area`` that overlaps nothing, or None."""
    for box in candidates:
        if box.is_inside(area) and not any(box.overlaps(other) for other in taken):
            return box
    return None


def _break(x: float, y: float, *, is_vertical: bool) -> str:
    """Return the zigzag that marks an axis without its zero."""
    upright, flat = f"M{x - 4:.1f} {y + 3:.1f}l8 -3l-8 -3l8 -3", f"M{x - 3:.1f} {y + 4:.1f}l3 -8l3 8l3 -8"
    path = upright if is_vertical else flat
    return tag("path", d=path, class_="plot-muted", stroke="currentColor", stroke_width=1.5)
