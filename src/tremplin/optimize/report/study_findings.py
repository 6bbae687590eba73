"""What a study found, in words: which version to take, what it costs, which ones must not be taken and why."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite

from tremplin.optimize.gate import Loss
from tremplin.optimize.report.compare import faster_in_words, smaller_in_words
from tremplin.optimize.report.numbers import NO_BREAK_SPACE, decimals_for, number, size, with_unit
from tremplin.optimize.report.study_file import Part, Ratios, StudyEntry, StudyFile
from tremplin.optimize.report.wording import POINTS, read_as, shown_value
from tremplin.registry.passport import Metric

LOST = {
    "accuracy_loss_points": ("right answers", "test texts"),
    "ndcg_loss_points": ("nDCG at 10", "queries"),
    "retrieval_loss_points": ("texts with the same nearest neighbour", "test texts"),
}
"""What a loss is of, and what it was counted on, by the name of its metric."""
UNSEEN = 0.005
"""Points that would be shown as 0.00."""


def chosen_of(study: StudyFile) -> StudyEntry | None:
    """Return the version the report speaks of first.

    It is the one an objective picked; else, of those that pass, the one with the lowest median latency, the
    smaller of equals. None when no version but the reference passes.
    """
    picked = [entry for entry in study.entries if entry.name == study.chosen]
    if picked:
        return picked[0]
    passing = [entry for entry in study.entries if entry.passes]
    return min(passing, key=lambda entry: (p50_of(entry), entry.size_bytes), default=None)


def nearest_of(study: StudyFile) -> StudyEntry | None:
    """Return the version that is proven to lose least; None when there is only the reference."""
    judged = [(entry.loss.upper, entry) for entry in study.entries if entry.loss is not None]
    return min(judged, key=lambda item: item[0])[1] if judged else None


def shown_first(study: StudyFile) -> StudyEntry:
    """Return the version to look at first: the chosen one, else the nearest, else the reference."""
    return chosen_of(study) or nearest_of(study) or study.reference


def p50_of(entry: StudyEntry) -> float:
    """Return the median latency of one text in ms; infinite when it was not raced."""
    return entry.speed.p50_ms if entry.speed is not None else float("inf")


def headline(study: StudyFile) -> str:
    """Return the finding as one sentence."""
    chosen, nearest = chosen_of(study), nearest_of(study)
    if chosen is not None and not chosen.is_reference:
        return entry_in_words(chosen)
    if chosen is not None or nearest is None:
        said = "The reference itself is picked" if chosen is not None else "The study holds only its reference"
        quality = quality_in_words(study.reference)
        return f"{said}: {size(study.reference.size_bytes)}{', ' if quality else ''}{quality}"
    assert nearest.loss is not None
    allowed = f" at most {_allowed(study)}" if study.allowed_points is not None else " little enough"
    return f"No version is proven to lose{allowed}; the nearest, {nearest.name}, {loss_in_words(nearest.loss)}"


def entry_in_words(entry: StudyEntry) -> str:
    """Return one version against the reference: speed, size, loss."""
    if entry.is_reference:
        return f"{entry.name} is what the others are judged against"
    parts = [f"is {ratio_in_words(entry.faster_alone)}"] if entry.faster_alone else []
    said = f"{entry.name} {parts[0] if parts else 'is'} at {size(entry.size_bytes)}"
    return f"{said} and {loss_in_words(entry.loss)}" if entry.loss is not None else said


def ratio_in_words(ratios: Ratios) -> str:
    """Return how many times faster; rounds on both sides of 1 are called about as fast."""
    middle, low, high = ratios
    return "about as fast" if low < 1 < high else faster_in_words(middle)


def loss_in_words(loss: Loss) -> str:
    """Return what is lost and the one-sided bound.

    >>> loss_in_words(Loss(0.2, -0.1, 0.5, 0.44, 3080, 20, 14))
    'loses 0.20\\xa0points (at most 0.44)'
    """
    most = f"at most {bound(loss.upper)}"
    if abs(loss.points) < UNSEEN:
        return f"loses nothing that shows ({most}{NO_BREAK_SPACE}points)"
    if loss.points > 0:
        return f"loses {points(loss.points)}{NO_BREAK_SPACE}points ({most})"
    gained = f"gains {points(-loss.points)}{NO_BREAK_SPACE}points"
    return f"{gained} (loses {most})" if loss.upper > 0 else f"{gained} (at least {points(-loss.upper)})"


def points(value: float) -> str:
    """Return percentage points without their unit, with a true minus."""
    return number(value, 2).replace("-", "−")


def bound(value: float) -> str:
    """Return an upper bound in points, never shown lower than it is.

    >>> bound(0.5012)
    '0.51'
    """
    return points(rounded_up(value))


def rounded_up(value: float) -> float:
    """Return a bound in points rounded up to what is shown of it."""
    return ceil(value * 100 - 1e-9) / 100 if isfinite(value) else value


def verdict_in_words(entry: StudyEntry) -> str:
    """Return the gate's verdict in a few words, with a mark so that colour is never alone."""
    if entry.is_reference:
        return "the reference"
    if entry.passes:
        return "✓ passes"
    broken = len(broken_classes(entry)), len(broken_slices(entry))
    said = [_counted(count, one, many) for count, (one, many) in zip(broken, PARTS, strict=True) if count]
    return f"✗ {' and '.join(said)} broken" if said else "✗ not proven"


def broken_classes(entry: StudyEntry) -> tuple[Part, ...]:
    """Return the classes proven to lose more than is tolerated."""
    return tuple(part for part in entry.classes if _is_broken(entry, part, entry.broken_classes))


def broken_slices(entry: StudyEntry) -> tuple[Part, ...]:
    """Return the slices proven to lose more than is tolerated."""
    return tuple(part for part in entry.slices if _is_broken(entry, part, entry.broken_slices))


def losing(entry: StudyEntry) -> tuple[Part, ...]:
    """Return the classes that lose something: broken ones first, then the worst first."""
    broken = broken_classes(entry)
    found = [part for part in entry.classes if part.points > 0]
    return tuple(sorted(found, key=lambda part: (part not in broken, -part.points, part.name)))


def classes_in_words(entry: StudyEntry) -> str:
    """Return how the loss is spread over the classes."""
    if not entry.classes:
        return "no class was compared"
    worst, broken = losing(entry), broken_classes(entry)
    gained = sum(part.points < 0 for part in entry.classes)
    same = len(entry.classes) - len(worst) - gained
    told = [f"{len(worst)} of {_counted(len(entry.classes), *PARTS[0])} lose"]
    told += [f"{gained} gain"] * bool(gained) + [f"{same} stay as they are"] * bool(same)
    ends = f"{_counted(len(broken), *PARTS[0])} broken" if broken else "none is proven broken"
    return f"{', '.join(told)}; {ends}"


def remarks(study: StudyFile) -> list[str]:
    """Return the sentences under the headline."""
    found = [_choice(study), _others(study), _proof(study), _race(study)]
    if study.failures:
        failed = _listed([failure.name for failure in study.failures])
        found.append(f"{_counted(len(study.failures), 'recipe', 'recipes')} could not be worked: {failed}.")
    return [sentence for sentence in found if sentence]


def quality_in_words(entry: StudyEntry) -> str:
    """Return what versions are ordered by, with half the width of its interval; empty when not measured."""
    metric = entry.main_metric
    if metric is None:
        return ""
    return f"{quality_in_sentence(entry)} {plus_minus(metric)}"


def quality_in_sentence(entry: StudyEntry) -> str:
    """Return the name of what versions are ordered by as it stands within a sentence."""
    label = quality_label(entry)
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def quality_label(entry: StudyEntry) -> str:
    """Return the name of what versions are ordered by: ``Accuracy``, ``nDCG at 10``."""
    return read_as(entry.quality).label


def plus_minus(metric: Metric) -> str:
    """Return a metric as ``96.2 ± 0.7 %``: the wider side of its interval.

    >>> plus_minus(Metric("accuracy", 0.962, 0.955, 0.968, 3080))
    '96.2 ± 0.7\\xa0%'
    """
    if metric.low == metric.high:
        return shown_value(metric)
    words = read_as(metric.name)
    low, value, high = (end * words.factor for end in (metric.low, metric.value, metric.high))
    decimals = decimals_for(low, high, unit=words.unit)
    return with_unit(f"{number(value, decimals)} ± {number(max(high - value, value - low), decimals)}", words.unit)


def loss_name(study: StudyFile) -> str:
    """Return the name of the metric that tells the loss; empty when nothing was compared."""
    names = (metric.name for entry in study.entries for metric in entry.metrics)
    return next((name for name in names if is_loss(name)), "")


def is_loss(name: str) -> bool:
    """Return whether a metric is a loss: its ends are not those of an interval, see ``gate.loss_metric``."""
    return name.endswith(f"_loss_{POINTS}")


PARTS = (("class", "classes"), ("slice", "slices"))


def _choice(study: StudyFile) -> str:
    if study.choice:
        return study.choice if study.choice.endswith((".", "!", "?")) else f"{study.choice}."
    chosen = chosen_of(study)
    if chosen is None or chosen.is_reference:
        return ""
    smaller = smaller_in_words(study.reference.size_bytes / chosen.size_bytes) if chosen.size_bytes else ""
    fastest = f"Of the versions that pass, {chosen.name} answers one text fastest."
    batched = f"In batches it is {ratio_in_words(chosen.faster_batched)}." if chosen.faster_batched else ""
    link = "as" if smaller.startswith("about as") else "than"
    said = f"It is {smaller} {link} the reference." if smaller else ""
    return " ".join(part for part in (fastest, said, batched) if part)


def _others(study: StudyFile) -> str:
    judged = [entry for entry in study.entries if not entry.is_reference]
    failing = [entry for entry in judged if not entry.passes]
    if not failing:
        return f"All {len(judged)} versions pass the gate." if len(judged) > 1 else ""
    told = [
        f"{entry.name} ({_listed([part.name for part in broken_classes(entry)[:3]])} broken)"
        if broken_classes(entry)
        else entry.name
        for entry in failing
    ]
    counted = f"{_counted(len(failing), 'version', 'versions')} of {len(judged)}"
    return f"{counted} must not replace the reference: {_listed(told)}."


def _proof(study: StudyFile) -> str:
    losses = [entry.loss for entry in study.entries if entry.loss is not None]
    if not losses:
        return ""
    what, counted_on = LOST.get(loss_name(study), ("quality", "rows"))
    corpus = f" of {study.corpus.name}" if study.corpus.name and counted_on == "test texts" else ""
    allowed = f"; {_allowed(study)} are allowed" if study.allowed_points is not None else ""
    return (
        f"Losses are of {what} on the same {number(losses[0].n)} {counted_on}{corpus}, in percentage points; "
        f"“at most” is the one-sided 95{NO_BREAK_SPACE}% bound, and the gate reads that{allowed}."
    )


def _race(study: StudyFile) -> str:
    speed = next((entry.speed for entry in study.entries if entry.speed is not None), None)
    if speed is None:
        return "Speed was not measured."
    where = machine_in_words(study)
    rounds = len(speed.alone_per_s)
    said = f"Speed is from one race of all versions in turn, {_counted(rounds, 'round', 'rounds')}"
    return (
        f"{said} on {where}; it holds for this machine only."
        if where
        else f"{said}; the machine was not recorded."
    )


def machine_in_words(study: StudyFile) -> str:
    """Return the machine and the threads of the race in a few words; empty when they were not recorded."""
    machine, threads = study.environment.machine, study.environment.threads
    # Written in words, the processor comes first; its flags are left to the environment's table.
    cpu = machine.partition(", ")[0] if isinstance(machine, str) else str(machine.get("cpu", ""))
    said = [cpu.strip()] if cpu.strip() else []
    raced = threads.get("race") if isinstance(threads, dict) else threads
    return ", ".join([*said, _counted(raced, "thread", "threads")] if raced else said)


def _allowed(study: StudyFile) -> str:
    return f"{study.allowed_points:g}{NO_BREAK_SPACE}points"


def _is_broken(entry: StudyEntry, part: Part, named: Sequence[str] | None) -> bool:
    if named is not None:
        return part.name in named
    # Without the list, the gate's sentence tells: see gate._broken_in_words.
    return any(reason.startswith(f"{part.name!r} is broken") for reason in entry.reasons)


def _counted(count: int, one: str, many: str) -> str:
    return f"{number(count)} {one if count == 1 else many}"


def _listed(words: Sequence[str]) -> str:
    return "".join(words) if len(words) <= 1 else f"{', '.join(words[:-1])} and {words[-1]}"
