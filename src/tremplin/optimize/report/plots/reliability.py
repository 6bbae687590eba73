"""Calibration: does a probability of 0.8 come true eight times out of ten?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from tremplin.optimize.report.numbers import number, significant
from tremplin.optimize.report.plots.axes import Box, empty_chart, small, x_axis, y_axis, y_axis_width
from tremplin.optimize.report.plots.scale import linear_scale
from tremplin.optimize.report.plots.svg import WIDTH, described, document, heading, line, tag

PLOT_HEIGHT = 250.0
LARGEST_RADIUS = 10.0


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers of about the same confidence, and the share of them that was right."""

    confidence: float
    """Mean confidence in the bin, 0 to 1."""
    accuracy: float
    """Share that was right, 0 to 1."""
    count: int


def reliability_chart(title: str, bins: Sequence[ReliabilityBin]) -> str:
    """Return accuracy against confidence; dots on the diagonal are calibrated, area is the number of answers.

    A bar from each dot to the diagonal shows by how much the confidence is off. Empty bins are left out.
    """
    head, top = heading(title)
    usable = [item for item in bins if item.count > 0 and isfinite(item.confidence) and isfinite(item.accuracy)]
    description = "; ".join(_in_words(item) for item in usable)
    if not usable:
        return empty_chart(title)
    scale = linear_scale([0.0, 1.0], at_most=1.0, steps=5)
    area = Box(y_axis_width(scale), top + 28, WIDTH - 12, top + 28 + PLOT_HEIGHT)
    x_scale, y_scale = scale.between(area.left, area.right), scale.between(area.bottom, area.top)
    diagonal = line(x_scale(0), y_scale(0), x_scale(1), y_scale(1), class_="plot-muted", stroke_dasharray="4 3")
    drawn = [
        head,
        y_axis(y_scale, area, "share that was right"),
        x_axis(x_scale, area, "confidence"),
        diagonal,
        small(x_scale(0.3) + 6, y_scale(0.3) + 14, "as confident as right"),
    ]
    largest = max(item.count for item in usable)
    for item in usable:
        x, y, on_line = x_scale(item.confidence), y_scale(item.accuracy), y_scale(item.confidence)
        radius = max(2.5, LARGEST_RADIUS * sqrt(item.count / largest))
        dot = tag("circle", cx=x, cy=y, r=radius, fill="currentColor", fill_opacity=0.5, stroke="currentColor")
        gap = line(x, y, x, on_line, stroke_width=2)
        drawn.append(tag("g", described(_in_words(item)) + gap + dot, class_="plot-accent"))
    return document(title, description, drawn, height=area.bottom + 38)


def _in_words(item: ReliabilityBin) -> str:
    confidence, accuracy = number(item.confidence, 3), number(item.accuracy, 3)
    return f"confidence {confidence}: {accuracy} right, n={significant(item.count)}"
