"""A learning curve: the score on held-out texts above, the loss of training below, over the same epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from tremplin.optimize.report.numbers import alone, significant
from tremplin.optimize.report.plots.axes import Box, empty_chart, free_place, x_axis, y_axis, y_axis_width
from tremplin.optimize.report.plots.scale import LARGEST, Scale, finite, linear_scale
from tremplin.optimize.report.plots.svg import (
    BOLD,
    FONT,
    LINE,
    WIDTH,
    described,
    document,
    heading,
    line,
    tag,
    text,
    text_width,
)

SCORE_HEIGHT = 120.0
LOSS_HEIGHT = 90.0
GAP = 42.0


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation while a network learned."""

    step: int
    epoch: float
    loss: float
    """Mean loss of the steps since the point before."""
    score: float
    """On held-out texts; higher is better."""
    seconds: float = 0.0


def learning_chart(title: str, points: Sequence[CurvePoint], *, best_step: int | None = None) -> str:
    """Return score and loss by epoch; the evaluation whose weights were kept is ringed and named."""
    head, top = heading(title)
    usable = sorted((point for point in points if isfinite(point.epoch)), key=lambda point: point.epoch)
    if not usable:
        return empty_chart(title)
    scores, losses = [point.score for point in usable], [point.loss for point in usable]
    is_share = all(0 <= value <= 1 for value in finite(scores))
    score_scale, loss_scale = (
        linear_scale(scores, at_most=1.0 if is_share else None),
        linear_scale(losses, steps=3),
    )
    left = max(y_axis_width(score_scale), y_axis_width(loss_scale))
    upper = Box(left, top + 28, WIDTH - 14, top + 28 + SCORE_HEIGHT)
    lower = Box(left, upper.bottom + GAP, WIDTH - 14, upper.bottom + GAP + LOSS_HEIGHT)
    x_scale = linear_scale([point.epoch for point in usable], from_zero=True).between(left + 4, WIDTH - 20)
    score_scale = score_scale.between(upper.bottom - 4, upper.top + 2)
    loss_scale = loss_scale.between(lower.bottom - 4, lower.top + 2)
    kept = next((point for point in usable if point.step == best_step), None)
    drawn = [
        head,
        y_axis(score_scale, upper, "score on held-out texts"),
        y_axis(loss_scale, lower, "loss of training"),
        x_axis(x_scale, lower, "epoch"),
        _kept_line(kept, x_scale, upper, lower),
        _series(usable, scores, x_scale, score_scale, "plot-series-1", None),
        _series(usable, losses, x_scale, loss_scale, "plot-series-2", "7 3"),
        _kept_label(kept, usable, x_scale, score_scale, upper),
    ]
    description = "; ".join(_in_words(point) for point in usable)
    return document(title, description, drawn, height=lower.bottom + 38)


def _series(
    points: Sequence[CurvePoint],
    values: Sequence[float],
    x_scale: Scale,
    y_scale: Scale,
    role: str,
    dash: str | None,
) -> str:
    """Return a line through the finite values, each a dot with its tooltip."""
    places = [
        (point, x_scale(point.epoch), y_scale(min(max(value, -LARGEST), LARGEST)))
        for point, value in zip(points, values, strict=True)
        if isfinite(value)
    ]
    path = tag(
        "polyline",
        points=" ".join(f"{x:.1f},{y:.1f}" for _, x, y in places),
        stroke="currentColor",
        stroke_width=2,
        stroke_linejoin="round",
        stroke_dasharray=dash,
    )
    dots = [tag("circle", described(_in_words(p)), cx=x, cy=y, r=3.5, fill="currentColor") for p, x, y in places]
    return tag("g", path + "".join(dots), class_=role)


def _kept_line(kept: CurvePoint | None, x_scale: Scale, upper: Box, lower: Box) -> str:
    if kept is None:
        return ""
    at = x_scale(kept.epoch)
    return line(at, upper.top, at, lower.bottom, class_="plot-muted", stroke_dasharray="2 3")


def _kept_label(
    kept: CurvePoint | None, points: Sequence[CurvePoint], x_scale: Scale, y_scale: Scale, area: Box
) -> str:
    """Return the ring around the evaluation whose weights were kept, and its score beside it."""
    if kept is None or not isfinite(kept.score):
        return ""
    x, y = x_scale(kept.epoch), y_scale(kept.score)
    ring = tag("circle", cx=x, cy=y, r=7.5, class_="plot-ring", stroke="currentColor", stroke_width=1.5)
    words = f"kept: {alone(kept.score)}"
    width = text_width(words, FONT * BOLD)
    places = [(x_scale(p.epoch), y_scale(p.score)) for p in points if isfinite(p.score)]
    taken = [
        Box(x1 + (x2 - x1) * part / 20 - 3, y1 + (y2 - y1) * part / 20 - 3,
            x1 + (x2 - x1) * part / 20 + 3, y1 + (y2 - y1) * part / 20 + 3)
        for (x1, y1), (x2, y2) in pairwise([*places, places[-1]])
        for part in range(21)
    ]  # fmt: skip
    candidates = [
        Box(left, top, left + width, top + LINE)
        for down in (9, 24, 40, 56, 72, -9 - LINE)
        for left, top in ((x - width - 4, y + down), (x + 4, y + down))
    ]
    box = free_place(candidates, taken, area)
    label = text(box.left, box.bottom - 4, words, font_weight=600) if box is not None else ""
    return tag("g", ring + label, class_="plot-series-1")


def _in_words(point: CurvePoint) -> str:
    return f"epoch {significant(point.epoch)}: score {alone(point.score)}, loss {significant(point.loss)}"
