"""The signature picture: quality up, latency to the right, size as area, the chosen version ringed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt

from tremplin.optimize.report.numbers import interval, significant
from tremplin.optimize.report.plots.axes import (
    Box,
    empty_chart,
    free_place,
    small,
    x_axis,
    y_axis,
    y_axis_width,
)
from tremplin.optimize.report.plots.scale import LARGEST, Scale, finite, linear_scale, log_scale
from tremplin.optimize.report.plots.svg import (
    FONT,
    LINE,
    SMALL,
    WIDTH,
    described,
    document,
    fit_middle,
    heading,
    line,
    tag,
    text,
    text_width,
    wrapped,
)

PLOT_HEIGHT = 230.0
LARGEST_RADIUS = 15.0
SMALLEST_RADIUS = 3.5
LABEL_WIDTH = 160.0


@dataclass(frozen=True)
class ParetoPoint:
    """One version: its cost to the right, its quality upwards with the interval, its size as area."""

    label: str
    x: float
    y: float
    y_low: float
    y_high: float
    size: float
    chosen: bool = False
    is_ringed: bool | None = None
    """None: when it is chosen."""
    is_faint: bool | None = None
    """None: when another point of the picture is at least as good in both and better in one."""

    @property
    def has_ring(self) -> bool:
        """Return whether a ring is drawn around it."""
        return self.chosen if self.is_ringed is None else self.is_ringed


@dataclass(frozen=True)
class _Place:
    """A point in the picture."""

    point: ParetoPoint
    x: float
    y: float
    radius: float
    is_dominated: bool

    @property
    def is_quiet(self) -> bool:
        is_faint = self.is_dominated if self.point.is_faint is None else self.point.is_faint
        return is_faint and not self.point.chosen

    @property
    def box(self) -> Box:
        reach = self.radius + (4 if self.point.has_ring else 0)
        return Box(self.x - reach, self.y - reach, self.x + reach, self.y + reach)


def pareto_chart(
    title: str,
    points: Sequence[ParetoPoint],
    *,
    x_label: str,
    y_label: str,
    legend: str = "area: size · ring: chosen · faint: dominated · bar: 95 % interval",
    is_x_log: bool = False,
) -> str:
    """Return quality against cost: less cost and more quality is better.

    A point is dominated, and faint unless it says otherwise, when another is at least as good in both and better
    in one. Areas are in proportion to the sizes. Every chosen and every undominated point is named if it can be
    placed; the tooltip and the description name them all. Costs of different magnitude are told apart with
    ``is_x_log``, and the axis says so.
    """
    head, top = heading(title)
    usable = [point for point in points if isfinite(point.x) and isfinite(point.y)]
    description = "; ".join(_in_words(point) for point in usable)
    if not usable:
        return empty_chart(title)
    y_values = finite([value for point in usable for value in (point.y, point.y_low, point.y_high)])
    whole = 100.0 if "%" in y_label else 1.0
    is_share = all(0 <= value <= whole for value in y_values)
    y_scale = linear_scale(y_values, at_most=whole if is_share else None)
    costs = [point.x for point in usable]
    x_scale = (log_scale(costs) if is_x_log else None) or linear_scale(costs)
    area = Box(y_axis_width(y_scale), top + 28, WIDTH - 6, top + 28 + PLOT_HEIGHT)
    # Room for the largest circle, so that none is cut by an axis.
    inner_left, inner_right = area.left + LARGEST_RADIUS + 3, area.right - LARGEST_RADIUS - 5
    x_scale = x_scale.between(inner_left, inner_right)
    y_scale = y_scale.between(area.bottom - LARGEST_RADIUS - 3, area.top + 6)
    places = _places(usable, x_scale, y_scale)
    x_words = f"{x_label} (logarithmic)" if x_scale.is_log else x_label
    drawn = [head, y_axis(y_scale, area, y_label), x_axis(x_scale, area, x_words), _front(places)]
    drawn += [_circle(place, y_scale) for place in places]
    drawn.append(_labels(places, area, y_scale))
    legend_lines = wrapped(legend, WIDTH, SMALL)
    drawn += [small(0, area.bottom + 50 + LINE * row, words) for row, words in enumerate(legend_lines)]
    return document(title, description, drawn, height=area.bottom + 39 + LINE * len(legend_lines))


def dominated(points: Sequence[ParetoPoint]) -> list[bool]:
    """Return for each point whether another costs no more, is no worse, and is better in one of the two."""
    return [
        any(
            other.x <= point.x and other.y >= point.y and (other.x < point.x or other.y > point.y)
            for other in points
        )
        for point in points
    ]


def _places(points: Sequence[ParetoPoint], x_scale: Scale, y_scale: Scale) -> list[_Place]:
    """Return the points' places, large ones first so that small ones lie on top."""
    sizes = [min(point.size, LARGEST) if isfinite(point.size) and point.size > 0 else 0.0 for point in points]
    largest = max(sizes) or 1.0
    placed = [
        _Place(
            point=point,
            x=x_scale(min(max(point.x, -LARGEST), LARGEST)),
            y=y_scale(min(max(point.y, -LARGEST), LARGEST)),
            radius=max(SMALLEST_RADIUS, LARGEST_RADIUS * sqrt(size / largest)),
            is_dominated=is_dominated,
        )
        for point, size, is_dominated in zip(points, sizes, dominated(points), strict=True)
    ]
    return sorted(placed, key=lambda place: -place.radius)


def _front(places: Sequence[_Place]) -> str:
    """Return the thin line through the undominated points."""
    front = sorted((place.x, place.y) for place in places if not place.is_dominated)
    if len(front) < 2:
        return ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    return tag("polyline", points=path, class_="plot-muted", stroke="currentColor", stroke_dasharray="2 3")


def _along_front(places: Sequence[_Place]) -> list[Box]:
    """Return small boxes along the front's line, which labels should not cross."""
    front = sorted((place.x, place.y) for place in places if not place.is_dominated)
    return [
        Box(x - 1, y - 1, x + 1, y + 1)
        for (x1, y1), (x2, y2) in pairwise(front)
        for x, y in ((x1 + (x2 - x1) * part / 40, y1 + (y2 - y1) * part / 40) for part in range(41))
    ]


def _circle(place: _Place, y_scale: Scale) -> str:
    point = place.point
    drawn = described(_in_words(point))
    if isfinite(point.y_low) and isfinite(point.y_high) and point.y_low != point.y_high:
        drawn += line(place.x, y_scale(point.y_low), place.x, y_scale(point.y_high), stroke_width=1.5)
    drawn += tag(
        "circle",
        cx=place.x,
        cy=place.y,
        r=place.radius,
        fill="currentColor",
        fill_opacity=0.35,
        stroke="currentColor",
        stroke_width=1.5,
    )
    if point.has_ring:
        drawn += tag(
            "circle",
            cx=place.x,
            cy=place.y,
            r=place.radius + 4,
            class_="plot-ring",
            stroke="currentColor",
            stroke_width=2,
        )
    is_quiet = place.is_quiet
    return tag("g", drawn, class_="plot-muted" if is_quiet else "plot-accent", opacity=0.6 if is_quiet else None)


def _labels(places: Sequence[_Place], area: Box, y_scale: Scale) -> str:
    """Return the names beside the points: the chosen first, then the front, then the others."""
    taken = [place.box for place in places]
    lines = [*_along_front(places), *(_bar_box(place, y_scale) for place in places)]
    drawn = []
    order = sorted(places, key=lambda p: (not p.point.chosen, p.is_quiet, p.x, p.y, p.point.label))
    for place in order:
        is_quiet = place.is_quiet
        size = SMALL if is_quiet else FONT
        words = fit_middle(place.point.label, LABEL_WIDTH, size)
        width = text_width(words, size)
        box = free_place(_beside(place, width), taken + lines, area)
        box = box or free_place(_beside(place, width), taken, area)
        if box is None:
            continue
        taken.append(box)
        weight = 600 if place.point.chosen else None
        tone = "plot-muted" if is_quiet else None
        label = text(box.left, box.bottom - 4, words, font_size=size, font_weight=weight, class_=tone)
        drawn.append(label)
    return "".join(drawn)


def _bar_box(place: _Place, y_scale: Scale) -> Box:
    """Return the box of a point's interval; that of the point alone when it has none."""
    ends = [place.y, *(y_scale(end) for end in (place.point.y_low, place.point.y_high) if isfinite(end))]
    return Box(place.x - 1, min(ends) - 1, place.x + 1, max(ends) + 1)


def _beside(place: _Place, width: float) -> Iterator[Box]:
    """Yield the places a label may take: right, left, above, below, then further off."""
    box = place.box
    for far in (0.0, 0.6, 1.2, 2.0, 3.0):
        for up in (0.0, -far * LINE, far * LINE) if far else (0.0,):
            middle = place.y + up
            yield Box(box.right + 3, middle - LINE / 2, box.right + 3 + width, middle + LINE / 2)
            yield Box(box.left - 3 - width, middle - LINE / 2, box.left - 3, middle + LINE / 2)
        for edge in (box.top - 2 - LINE - far * LINE, box.bottom + 2 + far * LINE):
            yield Box(place.x - width / 2, edge, place.x + width / 2, edge + LINE)


def _in_words(point: ParetoPoint) -> str:
    chosen = " (chosen)" if point.chosen else ""
    quality = interval(point.y, point.y_low, point.y_high)
    cost, size = significant(point.x), significant(point.size)
    return f"{point.label}{chosen}: quality {quality}, cost {cost}, size {size}"
