"""The tables of a study: the front, the versions side by side, losses by class and slice, steps, environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from tremplin.optimize.race import BATCH_ROWS
from tremplin.optimize.report.cells import Cell, Row, Table, Tone, code, figure, words
from tremplin.optimize.report.compare import smaller_in_words
from tremplin.optimize.report.numbers import (
    NOT_MEASURED,
    count,
    duration,
    number,
    rate,
    significant,
    size,
)
from tremplin.optimize.report.provenance import software_in_words
from tremplin.optimize.report.study_file import Curve, Part, Ratios, StudyEntry, StudyFile
from tremplin.optimize.report.study_findings import (
    bound,
    broken_classes,
    broken_slices,
    chosen_of,
    is_loss,
    losing,
    p50_of,
    plus_minus,
    points,
    quality_label,
    verdict_in_words,
)
from tremplin.optimize.report.study_steps import facts_in_words, seconds_in_words, steps_of, worked_seconds
from tremplin.optimize.report.wording import read_as, shown_interval, shown_value

NOT_RECORDED = "not recorded"
FIRST_METRICS = (
    "accuracy",
    "ndcg_at_10",
    "macro_f1",
    "label_agreement",
    "coverage",
    "accuracy_when_answered",
    "expected_calibration_error",
    "out_of_scope_auroc",
    "answers_flipped_by_batch",
)


def front_table(study: StudyFile) -> Table:
    """Return the study in one row a version, the fastest first."""
    chosen = chosen_of(study)
    rows = []
    for entry in sorted(study.entries, key=lambda item: (p50_of(item), item.size_bytes, item.name)):
        speed = entry.speed
        rows.append(
            Row(
                (
                    words(entry.name, "chosen" if entry is chosen else ""),
                    verdict_cell(entry),
                    figure(plus_minus(entry.main_metric) if entry.main_metric is not None else NOT_MEASURED),
                    loss_cell(entry),
                    ratio_cell(entry.faster_alone),
                    figure(duration(speed.p50_ms) if speed is not None else NOT_MEASURED),
                    figure(size(entry.size_bytes)),
                    words("on the front" if entry.on_front else "beaten", tone="" if entry.on_front else "muted"),
                )
            )
        )
    quality = quality_label(study.reference)
    head = ("Version", "Verdict", quality, "Loss, points", "Faster", "p50", "Size", "Front")
    return Table("The versions, the fastest first", head, tuple(rows))


def study_versions_table(study: StudyFile) -> Table:
    """Return everything measured, a column a version: verdict, cost, speed, quality."""
    rows = [*_verdict_rows(study), *_cost_rows(study), *_speed_rows(study), *_quality_rows(study)]
    if any(entry.published for entry in study.entries):
        rows += [Row((words("Registry"),)), _row(study, "Published as", lambda entry: code(entry.published or ""))]
    return Table("Versions side by side", ("", *(entry.name for entry in study.entries)), tuple(rows))


def _row(study: StudyFile, label: str, cell: Callable[[StudyEntry], Cell], note: str = "") -> Row:
    return Row((words(label, note), *(cell(entry) for entry in study.entries)))


def _verdict_rows(study: StudyFile) -> list[Row]:
    both = "where the version is worse than the reference, and where it is better"
    return [
        Row((words("Verdict"),)),
        _row(study, "Loss", loss_cell, "in points; “at most” is the one-sided 95 % bound"),
        _row(study, "Rows lost and gained", _lost_and_gained, both),
        # To the right as the figures around it.
        _row(study, "Gate", lambda entry: replace(verdict_cell(entry), is_number=True)),
    ]


def _cost_rows(study: StudyFile) -> list[Row]:
    rows = [
        Row((words("Cost"),)),
        _row(study, "Size", partial(_size_cell, study.reference), "graph and tokenizer"),
    ]
    if any(entry.memory_bytes for entry in study.entries):
        rows.append(_row(study, "Peak memory", _memory_cell))
    return rows


def _speed_rows(study: StudyFile) -> list[Row]:
    batches = f"in batches of {BATCH_ROWS} as texts come; median and spread over rounds"
    return [
        Row((words("Speed, from a text to its answer"),)),
        _row(study, "Latency p50", partial(_latency_cell, "p50_ms"), "one text alone"),
        _row(study, "Latency p95", partial(_latency_cell, "p95_ms")),
        _row(study, "Latency p99", partial(_latency_cell, "p99_ms")),
        _row(study, "Runs", _runs_cell, "that latency is of"),
        _row(study, "Rate", _rate_cell, batches),
        _row(study, "Faster alone", lambda e: ratio_cell(e.faster_alone), "median and spread over rounds"),
        _row(study, "Faster in batches", lambda e: ratio_cell(e.faster_batched)),
    ]


def _quality_rows(study: StudyFile) -> list[Row]:
    found = [read_as(name) for name in metric_names(study.entries)]
    return [
        Row((words("Quality, with the 95 % interval"),)),
        *(_row(study, metric.label, partial(_metric_cell, metric.name), metric.meaning) for metric in found),
    ]


def metric_names(entries: Sequence[StudyEntry]) -> list[str]:
    """Return the names of all metrics, those every reader looks for first."""
    found = dict.fromkeys(metric.name for entry in entries for metric in entry.metrics)
    first = [name for name in FIRST_METRICS if name in found]
    return first + [name for name in found if name not in first and not is_loss(name)]


def verdict_cell(entry: StudyEntry) -> Cell:
    """Return the gate's verdict, in words."""
    tone: Tone = "muted" if entry.is_reference else "good" if entry.passes else "bad"
    return words(verdict_in_words(entry), tone=tone)


def loss_cell(entry: StudyEntry) -> Cell:
    """Return the loss in points and what it may be at most."""
    if entry.loss is None:
        return figure("—")
    return figure(points(entry.loss.points), f"at most {bound(entry.loss.upper)}")


def ratio_cell(ratios: Ratios | None) -> Cell:
    """Return how many times faster, with the spread over the rounds."""
    if ratios is None:
        return figure(NOT_MEASURED)
    middle, low, high = (significant(ratio, 2) for ratio in ratios)
    return figure(f"{middle}×", f"[{low}, {high}]" if low != high else "")


def class_losses_table(entry: StudyEntry) -> Table:
    """Return the classes that lose something: broken ones first, then the worst first."""
    broken = broken_classes(entry)
    rows = tuple(_part_row(part, is_broken=part in broken) for part in losing(entry))
    head = ("Class", "Loss, points", "Texts lost", "Gained", "Of")
    return Table(f"What {entry.name} loses by class, worst first", head, rows)


def slices_table(study: StudyFile) -> Table:
    """Return the loss on each slice (length, language), a column a version."""
    judged = [entry for entry in study.entries if entry.slices]
    names = dict.fromkeys(part.name for entry in judged for part in entry.slices)
    by_name = [(entry, {part.name: part for part in entry.slices}, broken_slices(entry)) for entry in judged]
    sizes = {part.name: part.n for entry in judged for part in entry.slices}
    rows = [
        Row(
            (
                words(name, f"{count(sizes[name])} texts"),
                *(_slice_cell(parts.get(name), b) for _, parts, b in by_name),
            )
        )
        for name in names
    ]
    head = ("Slice", *(entry.name for entry in judged))
    return Table("Loss in points by length and language", head, tuple(rows))


def confused_table(entry: StudyEntry, reference: StudyEntry, most: int = 10) -> Table:
    """Return the pairs a version confuses most, beside how often the reference does."""
    before = {(true, predicted): texts for true, predicted, texts in confused_pairs(reference)}
    # A pair that the reference does not list it confuses less often than those it lists.
    missing = "0" if "confusion" in reference.report else "fewer"
    rows = [
        Row(
            (
                words(true),
                words(predicted),
                figure(count(texts)),
                figure(count(before[true, predicted]) if (true, predicted) in before else missing),
            )
        )
        for true, predicted, texts in confused_pairs(entry)[:most]
    ]
    head = ("True label", "Read as", "Texts", "Reference")
    return Table("The commonest confusions", head, tuple(rows))


def confused_pairs(entry: StudyEntry) -> list[tuple[str, str, float]]:
    """Return (true label, predicted label, texts), most often first; from the matrix when it was kept."""
    confusion = entry.report.get("confusion")
    try:
        if isinstance(confusion, dict):
            labels, matrix = [str(label) for label in confusion["labels"]], confusion["matrix"]
            pairs = [
                (true, predicted, float(matrix[i][j]))
                for i, true in enumerate(labels)
                for j, predicted in enumerate(labels)
                if i != j and matrix[i][j] > 0
            ]
            return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))
        listed = entry.report.get("confused") or ()
        return [(str(pair["label"]), str(pair["predicted"]), float(pair["count"])) for pair in listed]
    except (KeyError, IndexError, TypeError, ValueError):
        return []


def curve_table(curve: Curve) -> Table:
    """Return the evaluations of one training step."""
    rows = [
        Row(
            (
                figure(f"{point.epoch:.3g}"),
                figure(number(point.step)),
                figure(significant(point.score, 4)),
                figure(significant(point.loss)),
                figure(seconds_in_words(point.seconds)),
            )
        )
        for point in curve.points
    ]
    ended = "stopped early" if curve.stopped_early else "ran to its end"
    resumed = f", continued from step {number(curve.resumed_at)}" if curve.resumed_at else ""
    caption = f"{number(curve.steps)} steps in {seconds_in_words(curve.seconds)}, {ended}{resumed}"
    return Table(caption, ("Epoch", "Step", "Score", "Loss", "After"), tuple(rows))


def steps_table(study: StudyFile) -> Table:
    """Return how each version was made, step by step; steps that versions share were worked once."""
    rows: list[Row] = []
    seen: dict[tuple[str, ...], str] = {}
    for entry in study.entries:
        rows.append(Row((words(entry.name),)))
        records = steps_of(entry)
        for position, record in enumerate(records, 1):
            by = seen.setdefault(tuple(item.step for item in records[:position]), entry.name)
            time = (
                figure(seconds_in_words(record.seconds)) if by == entry.name else figure("—", f"worked for {by}")
            )
            said = facts_in_words(record.facts)
            rows.append(Row((words(record.step), time, words(said[:1].upper() + said[1:] or "—"))))
    total = seconds_in_words(worked_seconds(study.entries))
    return Table(f"Steps, {total} of work in all", ("Step", "Time", "What it did"), tuple(rows))


def environment_table(study: StudyFile) -> Table:
    """Return where, when and on what the study was made."""
    rows = [Row((words(name), cell)) for name, cell in _environment(study)]
    return Table("Where the numbers come from", ("Fact", "Value"), tuple(rows))


def entry_table(study: StudyFile, entry: StudyEntry) -> Table:
    """Return the few facts a model card begins with."""
    facts = [
        ("Verdict", verdict_in_words(entry)),
        ("Size", size(entry.size_bytes)),
        (quality_label(entry), plus_minus(entry.main_metric) if entry.main_metric is not None else NOT_MEASURED),
        ("Steps", " → ".join(entry.steps) or NOT_RECORDED),
        ("Labels", _labels(study)),
    ]
    if entry.published:
        facts.append(("Published as", entry.published))
    return Table("What it is", ("Fact", "Value"), tuple(Row((words(name), words(value))) for name, value in facts))


def _environment(study: StudyFile) -> Iterator[tuple[str, Cell]]:
    environment, corpus, run = study.environment, study.corpus, study.run
    machine = environment.machine
    if isinstance(machine, dict):
        cpu, architecture = machine.get("cpu", NOT_RECORDED), machine.get("architecture", "")
        yield "Processor", words(f"{cpu} ({architecture})" if architecture else str(cpu))
        if machine.get("cores"):
            origin = f", from the {machine['cores_from']}" if machine.get("cores_from") else ""
            yield "Cores usable", words(f"{machine['cores']}{origin}")
        yield "CPU flags", words(", ".join(map(str, machine.get("flags") or ())) or "none that matter")
        if isinstance(machine.get("memory_bytes"), int):
            yield "Memory", words(size(machine["memory_bytes"]))
        if machine.get("system"):
            yield "System", words(str(machine["system"]))
    else:
        yield "Machine", words(machine or NOT_RECORDED)
    yield "Threads", words(_threads(study))
    python = {"python": environment.python} if environment.python else {}
    yield "Software", words(software_in_words({**python, **environment.versions}))
    yield "Date", words(environment.date or (run.updated_at if run is not None else NOT_RECORDED))
    yield "Began with", words(run.source if run is not None else NOT_RECORDED)
    if run is not None and run.published:
        yield "Published", words(", ".join(run.published))
    yield "Data", words(corpus.name or NOT_RECORDED)
    yield "SHA-256 of the data", code(corpus.sha256)
    yield "Texts", words(_texts(study))
    yield "Labels", words(_labels(study))
    yield "Seed", words(NOT_RECORDED if study.seed is None else str(study.seed))
    yield (
        "Allowed loss",
        words(NOT_RECORDED if study.allowed_points is None else f"{study.allowed_points:g} points"),
    )
    if study.class_tolerance_points is not None:
        yield "Tolerated in one class or slice", words(f"{study.class_tolerance_points:g} points, when proven")


def _texts(study: StudyFile) -> str:
    corpus = study.corpus
    parts = (
        ("to learn from", corpus.train),
        ("to choose on", corpus.validation),
        ("to test on", corpus.test),
        ("unlabelled", corpus.unlabelled),
        ("out of scope", corpus.out_of_scope),
    )
    return ", ".join(f"{number(n)} {purpose}" for purpose, n in parts if n) or NOT_RECORDED


def _threads(study: StudyFile) -> str:
    threads = study.environment.threads
    if isinstance(threads, dict):
        return ", ".join(f"{kind} {number(count)}" for kind, count in threads.items())
    return NOT_RECORDED if threads is None else number(threads)


def _labels(study: StudyFile) -> str:
    labels = study.corpus.labels
    if isinstance(labels, tuple):
        shown = ", ".join(labels[:8])
        return f"{len(labels)}: {shown}{', …' if len(labels) > 8 else ''}"
    return NOT_RECORDED if labels is None else number(labels)


def _lost_and_gained(entry: StudyEntry) -> Cell:
    loss = entry.loss
    return (
        figure("—")
        if loss is None
        else figure(f"{number(loss.lost)} and {number(loss.gained)}", f"of {number(loss.n)}")
    )


def _size_cell(reference: StudyEntry, entry: StudyEntry) -> Cell:
    if entry is reference or not entry.size_bytes:
        return figure(size(entry.size_bytes))
    return figure(size(entry.size_bytes), smaller_in_words(reference.size_bytes / entry.size_bytes))


def _memory_cell(entry: StudyEntry) -> Cell:
    return figure(size(entry.memory_bytes) if entry.memory_bytes else NOT_MEASURED)


def _latency_cell(name: str, entry: StudyEntry) -> Cell:
    return figure(NOT_MEASURED if entry.speed is None else duration(getattr(entry.speed, name)))


def _runs_cell(entry: StudyEntry) -> Cell:
    return figure(NOT_MEASURED if entry.speed is None else number(entry.speed.latency_n))


def _rate_cell(entry: StudyEntry) -> Cell:
    if entry.speed is None:
        return figure(NOT_MEASURED)
    rounds = entry.speed.batched_per_s
    return figure(rate(entry.speed.rate_per_s), f"[{significant(min(rounds))}, {significant(max(rounds))}]")


def _metric_cell(name: str, entry: StudyEntry) -> Cell:
    metric = entry.metric(name)
    return figure("—" if entry.is_reference and metric is None else shown_value(metric), shown_interval(metric))


def _part_row(part: Part, *, is_broken: bool) -> Row:
    tone: Tone = "bad" if is_broken else ""
    return Row(
        (
            words(part.name, "✗ broken" if is_broken else "", tone=tone),
            figure(points(part.points), f"[{points(part.low)}, {points(part.high)}]", tone=tone),
            figure(count(part.lost)),
            figure(count(part.gained)),
            figure(count(part.n)),
        )
    )


def _slice_cell(part: Part | None, broken: Sequence[Part]) -> Cell:
    if part is None:
        return figure(NOT_MEASURED)
    span = f"[{points(part.low)}, {points(part.high)}]"
    is_broken = part in broken
    return figure(f"{'✗ ' if is_broken else ''}{points(part.points)}", span, tone="bad" if is_broken else "")
