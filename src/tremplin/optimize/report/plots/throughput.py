"""Lines over a growing load: texts per second by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from tremplin.optimize.report.numbers import significant
from tremplin.optimize.report.plots.axes import Box, empty_chart, small, spread, x_axis, y_axis, y_axis_width
from tremplin.optimize.report.plots.scale import LARGEST, Scale, linear_scale, log2_scale
from tremplin.optimize.report.plots.svg import (
    LINE,
    WIDTH,
    described,
    document,
    fit,
    heading,
    tag,
    text,
    text_width,
)

MAX_SERIES = 5
PLOT_HEIGHT = 190.0
# Told apart without colour as well.
DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 4")


@dataclass(frozen=True)
class Series:
    """One line: its label and its points, in any order."""

    label: str
    points: Sequence[tuple[float, float]]


def throughput_chart(title: str, series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Return lines labelled at their ends; y starts at zero, x doubles when all x are powers of two.

    At most five lines are drawn; the picture says when there are more.
    """
    head, top = heading(title)
    drawn_series = [Series(item.label, _usable(item.points)) for item in series]
    drawn_series = [item for item in drawn_series if item.points]
    left_out = max(len(drawn_series) - MAX_SERIES, 0)
    lines = drawn_series[:MAX_SERIES]
    description = "; ".join(_in_words(item) for item in lines)
    if not lines:
        return empty_chart(title)
    xs = [x for item in lines for x, _ in item.points]
    y_scale = linear_scale([y for item in lines for _, y in item.points], from_zero=True)
    room = min(max(text_width(item.label) for item in lines) + 16, 150)
    area = Box(y_axis_width(y_scale), top + 28, WIDTH - room, top + 28 + PLOT_HEIGHT)
    x_scale = (log2_scale(xs) or linear_scale(xs)).between(area.left + 6, area.right - 6)
    y_scale = y_scale.between(area.bottom, area.top)
    drawn = [head, y_axis(y_scale, area, y_label), x_axis(x_scale, area, x_label)]
    drawn += [_line(index, item, x_scale, y_scale) for index, item in enumerate(lines)]
    drawn.append(_end_labels(lines, x_scale, y_scale, area))
    bottom = area.bottom + 38
    if left_out:
        drawn.append(small(0, bottom + 10, f"{left_out} more in the table"))
        bottom += 14
    return document(title, description, drawn, height=bottom)


def _usable(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the finite points from left to right."""
    kept = [
        (min(max(x, -LARGEST), LARGEST), min(max(y, -LARGEST), LARGEST))
        for x, y in points
        if isfinite(x) and isfinite(y)
    ]
    return sorted(kept)


def _line(index: int, series: Series, x_scale: Scale, y_scale: Scale) -> str:
    places = [(x_scale(x), y_scale(y)) for x, y in series.points]
    path = tag(
        "polyline",
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places),
        stroke="currentColor",
        stroke_width=2,
        stroke_linejoin="round",
        stroke_dasharray=DASHES[index],
    )
    dots = "".join(
        tag("circle", described(_point_in_words(series.label, point)), cx=x, cy=y, r=3.5, fill="currentColor")
        for point, (x, y) in zip(series.points, places, strict=True)
    )
    return tag("g", path + dots, class_=f"plot-series-{index + 1}")


def _end_labels(lines: Sequence[Series], x_scale: Scale, y_scale: Scale, area: Box) -> str:
    """Return the labels right of the last points, moved apart; a thin line leads to the one it names."""
    ends = [(x_scale(item.points[-1][0]), y_scale(item.points[-1][1])) for item in lines]
    rows = spread([y for _, y in ends], LINE, area.top + 4, area.bottom - 4)
    drawn = []
    for index, (item, (x, y), row) in enumerate(zip(lines, ends, rows, strict=True)):
        leader = tag(
            "path",
            d=f"M{x + 5:.1f} {y:.1f}L{area.right + 4:.1f} {row:.1f}",
            stroke="currentColor",
            stroke_opacity=0.5,
        )
        name = text(area.right + 8, row + 4, fit(item.label, WIDTH - area.right - 8), font_weight=600)
        drawn.append(tag("g", leader + name, class_=f"plot-series-{index + 1}"))
    return "".join(drawn)


def _in_words(series: Series) -> str:
    return f"{series.label}: " + ", ".join(f"{significant(y)} at {significant(x)}" for x, y in series.points)


def _point_in_words(label: str, point: tuple[float, float]) -> str:
    return f"{label}: {significant(point[1])} at {significant(point[0])}"
