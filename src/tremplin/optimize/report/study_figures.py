"""The pictures of a study, each with the table of its data: the front, the losses, confusions, learning curves."""

from __future__ import annotations

from tremplin.optimize.report.cells import Row, Table, figure, words
from tremplin.optimize.report.evidence import Confusion, read_evidence
from tremplin.optimize.report.figures import Figure, calibration_figure
from tremplin.optimize.report.numbers import NO_BREAK_SPACE, alone, count, significant, size
from tremplin.optimize.report.plots import (
    IntervalRow,
    ParetoPoint,
    confusion_chart,
    interval_chart,
    learning_chart,
    pareto_chart,
)
from tremplin.optimize.report.study_file import Curve, StudyEntry, StudyFile
from tremplin.optimize.report.study_findings import bound, chosen_of, points, rounded_up, verdict_in_words
from tremplin.optimize.report.study_steps import TRAINED, kind_of, steps_of
from tremplin.optimize.report.study_tables import confused_pairs, confused_table, curve_table, front_table
from tremplin.optimize.report.wording import read_as

FAR_APART = 8.0
"""From this ratio of latencies on, the axis is logarithmic: on a linear one the fast ones would be one blot."""
MAX_CONFUSED_LABELS = 8
"""Labels in the picture of confusions: those of the commonest pairs, as many as a phone shows."""


def front_figure(study: StudyFile) -> Figure | None:
    """Return the Pareto front: quality up, latency to the right, size as area, passing versions ringed."""
    chosen, raced = chosen_of(study), []
    for entry in study.entries:
        quality = entry.main_metric
        if quality is not None and entry.speed is not None:
            raced.append((entry, quality, entry.speed.p50_ms))
    if len(raced) < 2:
        return None
    how = read_as(study.reference.quality)
    drawn = [
        ParetoPoint(
            label=entry.name if entry.is_reference or entry.passes else f"{entry.name} (fails)",
            x=p50_ms,
            y=how.factor * quality.value,
            y_low=how.factor * quality.low,
            y_high=how.factor * quality.high,
            size=entry.size_bytes,
            chosen=entry is chosen,
            is_ringed=bool(entry.passes),
            is_faint=not entry.on_front,
        )
        for entry, quality, p50_ms in raced
    ]
    latencies = [p50_ms for _, _, p50_ms in raced if p50_ms > 0]
    bold = " · bold: chosen" if chosen is not None else ""
    svg = pareto_chart(
        _front_title(study),
        drawn,
        x_label="p50 of one text, ms",
        y_label=f"{how.label}, {how.unit}" if how.unit else how.label,
        legend=f"area: size · ring: passes the gate{bold} · faint: beaten · bar: 95 % interval",
        is_x_log=bool(latencies) and max(latencies) > FAR_APART * min(latencies),
    )
    return Figure(svg, front_table(study), is_stacked=True)


def losses_figure(study: StudyFile) -> Figure | None:
    """Return what each version may lose, up to the one-sided bound, against what is allowed."""
    judged = [(entry, entry.loss) for entry in study.entries if entry.loss is not None]
    if not judged:
        return None
    allowed = study.allowed_points
    rows = [
        IntervalRow(
            label=entry.name,
            value=loss.points,
            low=min(loss.low, loss.points),
            high=rounded_up(max(loss.upper, loss.points)),
            bound=allowed,
            is_met=None if allowed is None else loss.upper <= allowed,
        )
        for entry, loss in judged
    ]
    table = Table(
        "Loss and what the gate says",
        ("Version", "Loss", "At most", "Verdict"),
        tuple(
            Row(
                (
                    words(entry.name),
                    figure(points(loss.points)),
                    figure(bound(loss.upper)),
                    words(verdict_in_words(entry), tone="good" if entry.passes else "bad"),
                )
            )
            for entry, loss in judged
        ),
    )
    return Figure(interval_chart(_losses_title(study), rows, unit="points"), table)


def confusion_figure(entry: StudyEntry, reference: StudyEntry) -> Figure | None:
    """Return the labels a version confuses most; None when it confuses none, or it was not kept."""
    pairs, table = confused_pairs(entry), confused_table(entry, reference)
    if not pairs:
        return None
    true, predicted, texts = pairs[0]
    title = f"{entry.name}: most often {true} is read as {predicted} ({count(texts)} texts)"
    confusion = read_evidence({"confusion": entry.report.get("confusion")}).confusion
    if confusion is None:
        return Figure("", table)
    part = _most_confused(confusion, pairs)
    left_out = len(confusion.labels) - len(part.labels)
    if left_out:
        title += f"; {left_out} labels that are confused less are left out"
    return Figure(confusion_chart(title, part.labels, part.matrix), table)


def reliability_figure(entry: StudyEntry) -> Figure | None:
    """Return confidence against what came true; None when it was not kept."""
    calibration = read_evidence({"calibration": entry.report.get("calibration")}).calibration
    return calibration_figure(calibration) if calibration is not None else None


def curve_figures(study: StudyFile) -> list[Figure]:
    """Return the learning curve of each training step; a step that versions share is shown once."""
    found: dict[tuple[str, tuple[object, ...]], tuple[Curve, list[str]]] = {}
    for entry in study.entries:
        for step, curve in curves_of(entry):
            _, names = found.setdefault((step, curve.points), (curve, []))
            names.append(entry.name)
    return [_curve_figure(step, curve, names, study) for (step, _), (curve, names) in found.items()]


def curves_of(entry: StudyEntry) -> list[tuple[str, Curve]]:
    """Return the learning curves of a version with the steps that trained."""
    trained = [record.step for record in steps_of(entry) if kind_of(record.step) in TRAINED]
    if len(trained) != len(entry.curves):
        trained = [f"training {position}" for position in range(1, len(entry.curves) + 1)]
    return [(curve.step or step, curve) for step, curve in zip(trained, entry.curves, strict=True)]


def _curve_figure(step: str, curve: Curve, names: list[str], study: StudyFile) -> Figure:
    best = curve.best
    for_whom = "all versions" if len(names) == len(study.entries) > 1 else ", ".join(names)
    last = max((point.epoch for point in curve.points), default=best.epoch)
    title = (
        f"{kind_of(step)} for {for_whom}: best score {alone(best.score)} "
        f"after {best.epoch:.3g} of {last:.3g} epochs"
    )
    return Figure(learning_chart(title, curve.points, best_step=best.step), curve_table(curve))


def _front_title(study: StudyFile) -> str:
    chosen = chosen_of(study)
    members = [entry.name for entry in study.entries if entry.on_front]
    counted = f"{len(members)} of {len(study.entries)} versions are on the front"
    if chosen is None or chosen.is_reference or chosen.speed is None:
        return counted
    answers = f"{significant(chosen.speed.p50_ms, 2)}{NO_BREAK_SPACE}ms"
    return f"{counted}: {chosen.name} answers in {answers} with {size(chosen.size_bytes)}"


def _losses_title(study: StudyFile) -> str:
    judged = [entry for entry in study.entries if entry.loss is not None]
    if study.allowed_points is None:
        return "What each version may lose, up to the one-sided 95 % bound"
    proven = [
        entry.name for entry in judged if entry.loss is not None and entry.loss.upper <= study.allowed_points
    ]
    allowed = f"at most {study.allowed_points:g}{NO_BREAK_SPACE}points"
    who = f"{len(proven)} of {len(judged)}" if proven else "None"
    are = "is" if len(proven) < 2 else "are"
    return f"{who} {are} proven to lose {allowed} on average"


def _most_confused(confusion: Confusion, pairs: list[tuple[str, str, float]]) -> Confusion:
    """Return the matrix of the labels in the commonest pairs, in their usual order."""
    if len(confusion.labels) <= MAX_CONFUSED_LABELS:
        return confusion
    wanted: dict[str, None] = {}
    for true, predicted, _ in pairs:
        if len({*wanted, true, predicted}) > MAX_CONFUSED_LABELS:
            break
        wanted |= {true: None, predicted: None}
    places = [place for place, label in enumerate(confusion.labels) if label in wanted]
    matrix = tuple(tuple(confusion.matrix[row][column] for column in places) for row in places)
    return Confusion(tuple(confusion.labels[place] for place in places), matrix)
