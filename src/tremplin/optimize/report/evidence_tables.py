"""The tables of the evidence particular to how a version was made: schemes, labels, confusions."""

from __future__ import annotations

from collections.abc import Sequence

from tremplin.optimize.report.cells import Row, Table, figure, words
from tremplin.optimize.report.evidence import Calibration, ClassQuality, Confusion, TriedScheme
from tremplin.optimize.report.numbers import count, number, rate, size, with_unit
from tremplin.optimize.report.wording import read_as, shown_interval, shown_value


def candidates_table(candidates: Sequence[TriedScheme]) -> Table:
    """Return the schemes the optimiser tried and why they won or lost."""
    metric_names = list(dict.fromkeys(metric.name for item in candidates for metric in item.metrics))
    rows = []
    for item in candidates:
        measured = {metric.name: metric for metric in item.metrics}
        cells = (measured.get(name) for name in metric_names)
        rows.append(
            Row(
                (
                    words(item.scheme),
                    words("✓ chosen" if item.chosen else "lost", tone="good" if item.chosen else "muted"),
                    words(item.reason),
                    figure(size(item.size_bytes)),
                    figure(rate(item.texts_per_s)),
                    *(figure(shown_value(metric), shown_interval(metric)) for metric in cells),
                )
            )
        )
    head = ("Scheme", "Outcome", "Why", "Size", "Throughput", *(read_as(name).label for name in metric_names))
    return Table("Schemes the optimiser tried", head, tuple(rows))


def classes_table(classes: Sequence[ClassQuality]) -> Table:
    """Return precision, recall and F1 of each label, the weakest first."""
    order = sorted(classes, key=lambda item: (item.f1, item.label))
    rows = [
        Row(
            (
                words(item.label),
                *(figure(with_unit(number(100 * v, 1), "%")) for v in (item.precision, item.recall, item.f1)),
                figure(number(item.support)),
            )
        )
        for item in order
    ]
    return Table(
        "Quality of each label, the weakest first",
        ("Label", "Precision", "Recall", "F1", "Texts"),
        tuple(rows),
    )


def confusions_table(confusion: Confusion, most: int = 10) -> Table:
    """Return the commonest confusions; the picture holds the whole matrix."""
    wrong = [
        (texts, true, predicted)
        for true, counts in zip(confusion.labels, confusion.matrix, strict=False)
        for predicted, texts in zip(confusion.labels, counts, strict=False)
        if predicted != true and texts > 0
    ]
    wrong.sort(key=lambda item: (-item[0], item[1], item[2]))
    rows = [Row((words(true), words(predicted), figure(count(texts)))) for texts, true, predicted in wrong]
    return Table("The commonest confusions", ("True label", "Read as", "Texts"), tuple(rows[:most]))


def calibration_table(calibration: Calibration) -> Table:
    """Return the data of the calibration picture."""
    rows = [
        Row(
            (
                figure(with_unit(number(100 * item.confidence, 1), "%")),
                figure(with_unit(number(100 * item.accuracy, 1), "%")),
                figure(number(item.count)),
            )
        )
        for item in calibration.bins
        if item.count
    ]
    return Table("Confidence and what came true", ("Mean confidence", "Right", "Texts"), tuple(rows))
