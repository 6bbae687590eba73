"""A confusion matrix as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from tremplin.optimize.report.numbers import count as shown_count
from tremplin.optimize.report.plots.axes import empty_chart, small
from tremplin.optimize.report.plots.svg import (
    FONT,
    SMALL,
    WIDE,
    WIDTH,
    described,
    document,
    fit,
    heading,
    tag,
    text,
    text_width,
)

MAX_NUMBERED = 20
"""More labels than this leave no room for numbers: colour and tooltip remain."""
MAX_NARROW = 8
LABEL_SHARE = 0.36
# Above this a number in the text colour would no longer stand out from its cell.
DARKEST = 0.5
LIGHTEST = 0.06


def confusion_chart(title: str, labels: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """Return a heat map: a row per true label, a column per predicted one, shaded by the row's share.

    Columns carry the numbers of the rows, since turned names cannot be read on a phone. What is right is in
    the accent colour, what is wrong in the bad one. ``matrix`` has shape (n_labels, n_labels) and holds
    counts; missing, negative or unknown ones count as zero.
    """
    width = WIDTH if len(labels) <= MAX_NARROW else WIDE
    head, top = heading(title, width=width)
    if not labels:
        return empty_chart(title)
    counts = [[_count(matrix, row, column) for column in range(len(labels))] for row in range(len(labels))]
    numbered = [f"{index + 1} {label}" for index, label in enumerate(labels)]
    left = min(width * LABEL_SHARE, max(text_width(words) for words in numbered) + 10)
    side = (width - left - 2) / len(labels)
    height = min(side, 34.0) if len(labels) <= MAX_NUMBERED else max(side, 15.0)
    top += 32
    background = tag(
        "rect",
        x=left,
        y=top,
        width=side * len(labels),
        height=height * len(labels),
        class_="plot-muted",
        fill="currentColor",
        fill_opacity=0.08,
    )
    drawn = [head, background, small(left, top - 20, "predicted"), small(0, top - 4, "true")]
    drawn += [
        small(left + side * (index + 0.5), top - 4, str(index + 1), text_anchor="middle")
        for index in range(len(labels))
        if side >= 13 or (index + 1) % 5 == 0
    ]
    for row, label in enumerate(numbered):
        y = top + height * row
        size = min(FONT, height * 0.9)
        drawn.append(text(0, y + height / 2 + size * 0.36, fit(label, left - 8, size), font_size=size))
        drawn.append(_cells(labels, counts[row], row, left=left, top=y, side=side, height=height))
    right = sum(counts[index][index] for index in range(len(labels)))
    description = f"{shown_count(right)} of {shown_count(sum(map(sum, counts)))} on the diagonal. " + "; ".join(
        _worst(labels, counts)
    )
    return document(title, description, drawn, height=top + height * len(labels) + 4, width=width)


def _cells(
    labels: Sequence[str],
    counts: Sequence[float],
    row: int,
    *,
    left: float,
    top: float,
    side: float,
    height: float,
) -> str:
    largest = max(counts) or 1.0
    shares = [value / largest for value in counts]
    total = sum(shares) or 1.0
    drawn = []
    for column, value in enumerate(counts):
        if not value:
            continue
        x = left + side * column
        share = shares[column] / total
        cell = tag(
            "rect",
            described(f"{labels[row]} read as {labels[column]}: {shown_count(value)}"),
            x=x + 0.5,
            y=top + 0.5,
            width=max(side - 1, 0.5),
            height=max(height - 1, 0.5),
            class_="plot-accent" if row == column else "plot-bad",
            fill="currentColor",
            fill_opacity=LIGHTEST + (DARKEST - LIGHTEST) * share,
        )
        drawn.append(cell)
        if len(labels) <= MAX_NUMBERED:
            words = shown_count(value)
            size = min(SMALL, (side - 1) / max(text_width(words, 1.0), 0.1))
            place = top + height / 2 + size * 0.36
            weight = 600 if row == column else None
            drawn.append(
                text(x + side / 2, place, words, text_anchor="middle", font_size=size, font_weight=weight)
            )
    return "".join(drawn)


def _count(matrix: Sequence[Sequence[float]], row: int, column: int) -> float:
    if row >= len(matrix) or column >= len(matrix[row]):
        return 0.0
    count = float(matrix[row][column])
    return min(count, 1e300) if isfinite(count) and count > 0 else 0.0


def _worst(labels: Sequence[str], counts: Sequence[Sequence[float]]) -> list[str]:
    """Return the three commonest confusions in words."""
    wrong = [
        (counts[row][column], row, column)
        for row in range(len(labels))
        for column in range(len(labels))
        if row != column and counts[row][column] > 0
    ]
    wrong.sort(key=lambda item: (-item[0], item[1], item[2]))
    return [
        f"{labels[row]} read as {labels[column]} {shown_count(count)} times" for count, row, column in wrong[:3]
    ]
