"""What a study found, as the pages show it: the finding, its versions, and the picture of the front."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path

from tremplin.console.contexts import (
    ClassLoss,
    FailedRecipe,
    Finding,
    Plot,
    PlotTable,
    Spread,
    StepTime,
    StudyVersion,
)
from tremplin.console.desk import published_as
from tremplin.console.i18n import NBSP, Language
from tremplin.console.pictures import in_language
from tremplin.errors import BadInput
from tremplin.optimize.recipes.run_folder import STUDY_FILE
from tremplin.optimize.report.plots import ParetoPoint, pareto_chart
from tremplin.optimize.report.study_file import StudyEntry, StudyFile, read_study
from tremplin.optimize.report.study_findings import broken_classes, chosen_of, losing, shown_first
from tremplin.optimize.report.study_steps import steps_of, worked_seconds

MAX_CLASSES = 10
LOGARITHMIC_FROM = 20
"""Latencies this many times apart are drawn on a logarithmic axis."""
UNSEEN_POINTS = 0.005
"""What would be shown as 0.00."""


def study_of(folder: Path) -> StudyFile | None:
    """Return the study of a run; None before it is there, or when it cannot be read."""
    try:
        return _study_at(folder, (folder / STUDY_FILE).stat().st_mtime_ns)
    except (FileNotFoundError, BadInput):
        return None


@lru_cache(maxsize=32)
def _study_at(folder: Path, written_ns: int) -> StudyFile:
    """Read a study once for each time it is written: the list asks for all of them every two seconds."""
    return read_study(folder)


def finding_of(study: StudyFile) -> Finding:
    """Return the version to take, else the nearest, else that there is only the reference."""
    best = shown_first(study)
    is_alone = best is study.reference
    return Finding(
        version="" if is_alone else best.name,
        passes=chosen_of(study) is best and not is_alone,
        size_bytes=best.size_bytes,
        reference_size_bytes=study.reference.size_bytes,
        faster_alone=_spread(best.faster_alone),
        faster_batched=_spread(best.faster_batched),
        loss_points=best.loss.points if best.loss is not None else None,
        loss_upper=best.loss.upper if best.loss is not None else None,
        accuracy=_accuracy(best),
    )


def versions_of(
    study: StudyFile, published: Sequence[str], base: str, *, can_publish: bool
) -> tuple[StudyVersion, ...]:
    """Return the versions of a study; ``can_publish`` says whether this reader may publish from it now."""
    return tuple(_version(entry, published, base, can_publish) for entry in study.entries)


def failures_of(study: StudyFile) -> tuple[FailedRecipe, ...]:
    """Return the recipes that could not be worked."""
    return tuple(FailedRecipe(failure.name, failure.reason) for failure in study.failures)


def seconds_of(study: StudyFile) -> float:
    """Return what all steps of a study took."""
    return worked_seconds(study.entries)


def page_of(ref: str, base: str) -> str:
    """Return the address of a version's page."""
    model, _, version = ref.partition("@")
    return f"{base}/models/{model}/{version}"


def _version(entry: StudyEntry, published: Sequence[str], base: str, can_publish: bool) -> StudyVersion:
    broken, worst = broken_classes(entry), losing(entry)
    ref = published_as(entry.name, published)
    return StudyVersion(
        name=entry.name,
        verdict="reference" if entry.is_reference else "passes" if entry.passes else "fails",
        reasons=entry.reasons,
        size_bytes=entry.size_bytes,
        accuracy=_accuracy(entry),
        loss_points=entry.loss.points if entry.loss is not None else None,
        loss_upper=entry.loss.upper if entry.loss is not None else None,
        faster_alone=_spread(entry.faster_alone),
        faster_batched=_spread(entry.faster_batched),
        p50_ms=entry.speed.p50_ms if entry.speed is not None else None,
        on_front=entry.on_front,
        classes=len(entry.classes),
        losing=len(worst),
        worst=tuple(
            ClassLoss(c.name, c.points, c.low, c.high, c.n, c.lost, c.gained, is_broken=c in broken)
            for c in worst[:MAX_CLASSES]
        ),
        steps=tuple(StepTime(record.step, record.seconds) for record in steps_of(entry)),
        recipe=entry.recipe,
        ref=ref,
        href=page_of(ref, base) if ref else "",
        can_publish=can_publish and not ref and entry.passes is not False,
    )


def _accuracy(entry: StudyEntry) -> Spread | None:
    metric = entry.metric("accuracy")
    return Spread(metric.value, metric.low, metric.high) if metric is not None else None


def _spread(ratios: tuple[float, float, float] | None) -> Spread | None:
    return Spread(*ratios) if ratios is not None else None


# -- words ---------------------------------------------------------------------------------------------


def finding_text(finding: Finding, language: Language) -> str:
    """Return the finding as one sentence that names the version."""
    if finding.version and finding.passes:
        return language("finding.best", version=finding.version, why=_why(finding, language))
    return finding_why(finding, language)


def finding_why(finding: Finding, language: Language) -> str:
    """Return the finding as a sentence under the version's name."""
    if not finding.version:
        return language("finding.alone")
    if not finding.passes:
        loss = loss_text(finding.loss_points, finding.loss_upper, language)
        return language("finding.none", version=finding.version, loss=loss)
    why = _why(finding, language)
    return f"{why[0].upper()}{why[1:]}."


def _why(finding: Finding, language: Language) -> str:
    """Return what a version that passes costs and gains: speed, size, loss."""
    size, before = language.size(finding.size_bytes), language.size(finding.reference_size_bytes)
    return ", ".join(
        [
            *([faster_text(finding.faster_alone, language)] if finding.faster_alone is not None else []),
            language("finding.size", size=size, before=before),
            loss_text(finding.loss_points, finding.loss_upper, language),
        ]
    )


def faster_text(ratio: Spread, language: Language) -> str:
    """Return how many times faster in words; rounds on both sides of 1 are called about as fast."""
    if ratio.low < 1 < ratio.high:
        return language("finding.same_speed")
    if ratio.value < 1:
        return language("finding.slower", times=language.significant(1 / ratio.value, 2))
    return language("finding.faster", times=language.significant(ratio.value, 2))


def loss_text(points: float | None, upper: float | None, language: Language) -> str:
    """Return what is lost and the one-sided 95 % bound, which is never shown lower than it is."""
    if points is None or upper is None:
        return language("finding.loss_unknown")
    most = upper_text(upper, language)
    if abs(points) < UNSEEN_POINTS:
        return language("finding.loses_nothing", most=most)
    if points > 0:
        return language("finding.loses", points=points_text(points, language), most=most)
    return language("finding.gains", points=points_text(-points, language), most=most)


def points_text(value: float, language: Language, digits: int = 2) -> str:
    """Return percentage points with their unit; in French the plural begins at 2."""
    unit = language("unit." + ("point" if language.code == "fr" and abs(value) < 2 else "points"))
    return f"{language.number(value, digits)}{NBSP}{unit}"


def upper_text(value: float, language: Language) -> str:
    """Return an upper bound in points without their unit, rounded upwards."""
    return language.number(ceil(value * 100 - 1e-9) / 100, 2)


def share_text(share: Spread, language: Language) -> str:
    """Return a share as ``96.2 ± 0.7 %``: the wider side of its interval."""
    reach = 100 * max(share.high - share.value, share.value - share.low)
    digits = 2 if reach < 0.1 else 1
    value = language.number(100 * share.value, digits)
    return f"{value}{NBSP}±{NBSP}{language.number(reach, digits)}{NBSP}%"


def times_text(ratio: Spread, language: Language) -> str:
    """Return how many times as fast, such as ``4.2 ×``."""
    return f"{language.significant(ratio.value, 2)}{NBSP}×"


def rounds_text(ratio: Spread, language: Language) -> str:
    """Return the lowest and the highest of the rounds."""
    return f"{language.significant(ratio.low, 2)} – {language.significant(ratio.high, 2)}"


# -- the picture ---------------------------------------------------------------------------------------


def front_plot(study: StudyFile, language: Language) -> Plot | None:
    """Return accuracy against latency; None when fewer than two versions have both."""
    measured = [
        (entry, accuracy, entry.speed.p50_ms)
        for entry in study.entries
        if (accuracy := _accuracy(entry)) is not None and entry.speed is not None
    ]
    if len(measured) < 2:
        return None
    best = shown_first(study)
    points = [
        ParetoPoint(
            label=entry.name,
            x=p50_ms,
            y=100 * accuracy.value,
            y_low=100 * accuracy.low,
            y_high=100 * accuracy.high,
            size=entry.size_bytes,
            is_ringed=entry is best and bool(entry.passes),
            is_faint=not entry.on_front,
        )
        for entry, accuracy, p50_ms in measured
    ]
    title = _front_title(finding_of(study), language)
    latencies = [p50_ms for _, _, p50_ms in measured]
    picture = pareto_chart(
        title,
        points,
        x_label=language("plot.latency_axis"),
        y_label=f"{language('metric.accuracy')}, %",
        legend=language("plot.front_legend"),
        is_x_log=max(latencies) > LOGARITHMIC_FROM * min(latencies),
    )
    headers = ("models.version", "models.p50", "metric.accuracy", "models.size", "study.on_front")
    table = PlotTable(
        tuple(language(key) for key in headers),
        tuple(
            (
                entry.name,
                language.ms(p50_ms),
                share_text(accuracy, language),
                language.size(entry.size_bytes),
                language("on_front." + ("yes" if entry.on_front else "no")),
            )
            for entry, accuracy, p50_ms in measured
        ),
    )
    return Plot(title, in_language(picture, language, [point.label for point in points]), table)


def _front_title(finding: Finding, language: Language) -> str:
    """Return what the picture shows: how much faster the version to serve is, where it is plainly faster."""
    faster = finding.faster_alone
    if not finding.passes or faster is None or faster.low <= 1:
        return finding_text(finding, language)
    ratio = language.significant(faster.value, 2)
    return language("plot.faster_than_reference", fastest=finding.version, ratio=ratio)
