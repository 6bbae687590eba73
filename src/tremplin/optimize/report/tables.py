"""The tables of a report, once, for the page, the model card and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tremplin.optimize.report.compare import Bench, Difference, shape_in_words, short_names
from tremplin.optimize.report.evidence import Calibration, ClassQuality, Confusion, TriedScheme
from tremplin.optimize.report.findings import is_reference, metric_beside
from tremplin.optimize.report.numbers import (
    NOT_MEASURED,
    count,
    duration,
    number,
    rate,
    significant,
    size,
    with_unit,
)
from tremplin.optimize.report.verdict import Outcome, limit_in_words, summary, verdict_of
from tremplin.optimize.report.wording import read_as, shown_interval, shown_value
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Speed, Throughput

Tone = Literal["", "good", "bad", "muted"]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and a note in small print under it (an interval, a spread)."""

    text: str
    note: str = ""
    is_number: bool = False
    is_code: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    """One row; the first cell is its heading. A row of one cell heads a group."""

    cells: tuple[Cell, ...]

    @property
    def is_group(self) -> bool:
        """Return whether this row names the rows that follow."""
        return len(self.cells) == 1


@dataclass(frozen=True)
class Table:
    """A table with its caption; ``head`` has one word per column."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def aligned(self) -> tuple[bool, ...]:
        """Whether each column holds numbers, told from its first full row."""
        first = next((row for row in self.rows if not row.is_group), None)
        return tuple(cell.is_number for cell in first.cells) if first else (False,) * len(self.head)


def words(text: str, note: str = "", tone: Tone = "") -> Cell:
    """Return a cell of words."""
    return Cell(text, note, tone=tone)


def figure(text: str, note: str = "", tone: Tone = "") -> Cell:
    """Return a cell of numbers, right-aligned."""
    return Cell(text, note, is_number=True, tone="muted" if text == NOT_MEASURED else tone)


def code(text: str) -> Cell:
    """Return a cell to copy: a digest, a name."""
    return Cell(text or "—", is_code=bool(text))


def versions_table(
    manifests: Sequence[Manifest], bench: Bench, *, beside: Sequence[Manifest] = (), brief: bool = False
) -> Table:
    """Return the versions side by side: size, speed on one machine, quality, verdict.

    ``beside`` are all versions of the report when the table shows only some. A ``brief`` table has one row of
    throughput per text length, at the batch size that is best for the fastest version.
    """
    names, beside = short_names(beside or manifests), beside or manifests

    def row(label: str, cell: Callable[[Manifest], Cell], note: str = "") -> Row:
        return Row((words(label, note), *(cell(manifest) for manifest in manifests)))

    def timed(shown: Callable[[Speed], str]) -> Callable[[Manifest], Cell]:
        def cell(manifest: Manifest) -> Cell:
            speed = bench.speeds.get(manifest.ref)
            return figure(shown(speed) if speed else NOT_MEASURED)

        return cell

    rows = [
        Row((words("Cost"),)),
        row("Size", lambda manifest: figure(size(manifest.size_bytes))),
        row("Load time", timed(lambda speed: duration(speed.load_ms))),
        row("Peak memory", timed(lambda speed: size(speed.peak_memory_bytes))),
    ]
    tokens = sorted({speed.latency_tokens for speed in bench.speeds.values()})
    note = f"one text of {' or '.join(map(str, tokens))} tokens" if tokens else ""
    rows += [
        row("Latency p50", timed(lambda speed: duration(speed.p50_ms)), note),
        row("Latency p99", timed(lambda speed: duration(speed.p99_ms)), note),
    ]
    shapes = best_shapes(bench) if brief else sorted({s for v in bench.speeds.values() for s in _shapes(v)})
    if shapes:
        rows.append(Row((words("Throughput, median and spread over rounds"),)))
    for tokens_each, rows_each in shapes:
        cells = (_throughput_cell(bench.speeds.get(m.ref), rows_each, tokens_each) for m in manifests)
        rows.append(Row((words(_capital(shape_in_words(rows_each, tokens_each))), *cells)))
    metric_names = metric_order(manifests)
    if metric_names:
        rows.append(Row((words("Quality, with the 95 % interval"),)))
    for name in metric_names:
        cells = (_metric_cell(manifest, name, beside) for manifest in manifests)
        rows.append(Row((words(read_as(name).label, read_as(name).meaning), *cells)))
    rows += [Row((words("Verdict"),)), row("Bounds", _summary_cell)]
    return Table("Versions side by side", ("", *(names[manifest.ref] for manifest in manifests)), tuple(rows))


def metric_order(manifests: Sequence[Manifest]) -> list[str]:
    """Return the names of all metrics in the order they were first measured.

    The reference's score kept beside a version's own (``accuracy_reference``) is left out.
    """
    found = dict.fromkeys(metric.name for manifest in manifests for metric in manifest.quality.metrics)
    return [name for name in found if name.removesuffix("_reference") not in found.keys() - {name}]


def best_shapes(bench: Bench) -> list[tuple[int, int]]:
    """Return for each text length the (tokens, rows) at which the highest throughput was measured."""
    best: dict[int, Throughput] = {}
    for speed in bench.speeds.values():
        for item in speed.throughput:
            if item.tokens not in best or item.texts_per_s > best[item.tokens].texts_per_s:
                best[item.tokens] = item
    return sorted((item.tokens, item.rows) for item in best.values())


def metric_table(name: str, manifests: Sequence[Manifest]) -> Table:
    """Return one metric of every version with its bound and verdict."""
    names, rows = short_names(manifests), []
    for manifest in manifests:
        metric = manifest.quality.metric(name) or metric_beside(name, manifest, manifests)
        if metric is None:
            continue
        verdict = verdict_of(manifest.quality, name)
        is_own = manifest.quality.metric(name) is not None
        rows.append(
            Row(
                (
                    words(names[manifest.ref], "" if is_own else "the reference"),
                    figure(shown_value(metric), shown_interval(metric)),
                    figure(number(metric.n)),
                    words(verdict.limit if verdict else "none"),
                    outcome_cell(verdict.outcome) if verdict else words("—"),
                )
            )
        )
    return Table(read_as(name).label, ("Version", "Value", "Texts", "Bound", "Verdict"), tuple(rows))


def throughput_table(tokens: int, manifests: Sequence[Manifest], bench: Bench) -> Table:
    """Return texts per second by batch size for one text length."""
    names = short_names(manifests)
    timed = [manifest for manifest in manifests if manifest.ref in bench.speeds]
    batches = sorted(
        {item.rows for speed in bench.speeds.values() for item in speed.throughput if item.tokens == tokens}
    )
    rows = [
        Row(
            (
                figure(number(batch)),
                *(_throughput_cell(bench.speeds[m.ref], batch, tokens, with_unit=False) for m in timed),
            )
        )
        for batch in batches
    ]
    head = ("Texts in a batch", *(names[manifest.ref] for manifest in timed))
    return Table(f"Texts per second, {tokens} tokens each", head, tuple(rows))


def differences_table(differences: Sequence[Difference], before: str, after: str) -> Table:
    """Return a comparison of two versions: what differs, and whether it is more than noise."""
    rows = [
        Row(
            (
                words(item.measure),
                figure(item.before),
                figure(item.after),
                words(item.words, tone="" if item.is_better is None else "good" if item.is_better else "bad"),
                words(item.noise),
            )
        )
        for item in differences
    ]
    return Table(
        f"{after} compared with {before}",
        ("Measure", before, after, "Difference", "More than noise?"),
        tuple(rows),
    )


def trade_off_table(manifests: Sequence[Manifest], bench: Bench, name: str, chosen: Manifest) -> Table:
    """Return the data of the Pareto picture."""
    names, rows = short_names(manifests), []
    for manifest in manifests:
        metric, speed = metric_beside(name, manifest, manifests), bench.speeds.get(manifest.ref)
        rows.append(
            Row(
                (
                    words(names[manifest.ref], "chosen" if manifest is chosen else ""),
                    figure(shown_value(metric), shown_interval(metric)),
                    figure(duration(speed.p50_ms) if speed else NOT_MEASURED),
                    figure(size(manifest.size_bytes)),
                )
            )
        )
    return Table("Quality, latency and size", ("Version", read_as(name).label, "p50", "Size"), tuple(rows))


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


def benches_table(benches: Sequence[Bench], manifests: Sequence[Manifest]) -> Table:
    """Return the machines speed was measured on."""
    names = short_names(manifests)
    first = [next(iter(bench.speeds.values())) for bench in benches]

    def row(label: str, shown: Callable[[Speed], str]) -> Row:
        return Row((words(label), *(words(shown(speed)) for speed in first)))

    rows = [
        row("Processor", lambda s: f"{s.machine.cpu.strip()} ({s.machine.architecture})"),
        row("Cores usable", lambda s: f"{s.machine.cores}, from the {s.machine.cores_from}"),
        row("CPU flags", lambda s: ", ".join(s.machine.flags) or "none that matter"),
        row("Memory", lambda s: size(s.machine.memory_bytes)),
        row("System", lambda s: s.machine.system),
        row("Engine", lambda s: s.engine),
        row("Threads", lambda s: str(s.threads)),
        row("Rounds", lambda s: f"{s.rounds} per shape, {s.latency_n} single texts for latency"),
        row("Software", lambda s: software_in_words(s.software)),
        Row((words("Measured"), *(words(_measured_in_words(bench, names)) for bench in benches))),
    ]
    return Table("Machines", ("", *(_bench_name(bench) for bench in benches)), tuple(rows))


def quality_sources_table(manifests: Sequence[Manifest]) -> Table:
    """Return on which texts and against what quality was measured."""
    names = short_names(manifests)

    def row(label: str, cell: Callable[[Manifest], Cell]) -> Row:
        return Row((words(label), *(cell(manifest) for manifest in manifests)))

    rows = [
        row("Compared with", lambda m: words(m.quality.reference)),
        row("Data", lambda m: words(m.quality.data)),
        row("SHA-256 of the data", lambda m: code(m.quality.data_sha256)),
        row("Seed", lambda m: words(str(m.quality.seed))),
        row("Software", lambda m: words(software_in_words(m.quality.software))),
    ]
    return Table("How quality was measured", ("", *(names[m.ref] for m in manifests)), tuple(rows))


def lineage_table(manifests: Sequence[Manifest]) -> Table:
    """Return where each version comes from."""
    names = short_names(manifests)

    def row(label: str, cell: Callable[[Manifest], Cell]) -> Row:
        return Row((words(label), *(cell(manifest) for manifest in manifests)))

    rows = [
        row("Made from", lambda m: words(m.origin.source)),
        row("Revision", lambda m: code(m.origin.revision)),
        row("Architecture", lambda m: words(m.origin.architecture)),
        row("Recipe", lambda m: words(" → ".join(m.origin.recipe) or "imported as it is")),
        row("Precision", lambda m: words(m.precision)),
        row("Notes", lambda m: words("; ".join(m.origin.notes) or "—")),
        row("SHA-256 of the weights", lambda m: code(m.origin.weights_sha256)),
        row("Created", lambda m: words(m.created_at)),
    ]
    return Table("Lineage", ("", *(names[m.ref] for m in manifests)), tuple(rows))


def artefacts_table(manifests: Sequence[Manifest]) -> Table:
    """Return the files of each version."""
    names = short_names(manifests)
    rows = [
        Row((words(names[m.ref]), words(item.name), figure(size(item.size_bytes)), code(item.sha256)))
        for m in manifests
        for item in m.artefacts
    ]
    return Table("Artefacts", ("Version", "File", "Size", "SHA-256"), tuple(rows))


def bounds_table(manifest: Manifest) -> Table:
    """Return every bound of one version with its evidence."""
    rows = []
    for bound in manifest.quality.bounds:
        metric, verdict = manifest.quality.metric(bound.metric), verdict_of(manifest.quality, bound.metric)
        outcome = verdict.outcome if verdict else Outcome.NOT_MEASURED
        rows.append(
            Row(
                (
                    words(read_as(bound.metric).label),
                    words(limit_in_words(bound)),
                    figure(shown_value(metric), shown_interval(metric)),
                    outcome_cell(outcome),
                )
            )
        )
    return Table("Bounds", ("Metric", "Bound", "Measured", "Verdict"), tuple(rows))


def outcome_cell(outcome: Outcome) -> Cell:
    """Return a verdict as a word with a mark, so that colour is never alone."""
    marks: dict[Outcome, tuple[str, Tone]] = {
        Outcome.HOLDS: ("✓", "good"),
        Outcome.NOT_PROVEN: ("?", "bad"),
        Outcome.MISSED: ("✗", "bad"),
        Outcome.NOT_MEASURED: ("?", "bad"),
    }
    mark, tone = marks[outcome]
    return words(f"{mark} {outcome}", tone=tone)


def software_in_words(software: dict[str, str]) -> str:
    """Return library versions on one line, sorted."""
    return ", ".join(f"{name} {version}" for name, version in sorted(software.items())) or "not recorded"


def _summary_cell(manifest: Manifest) -> Cell:
    broken = manifest.quality.broken_bounds()
    if not manifest.quality.bounds:
        return words("? no bound declared", tone="muted")
    return words(f"{'✗' if broken else '✓'} {summary(manifest.quality)}", tone="bad" if broken else "good")


def _metric_cell(manifest: Manifest, name: str, beside: Sequence[Manifest]) -> Cell:
    if manifest.quality.metric(name) is None and is_reference(manifest, name, beside):
        return Cell("reference", is_number=True, tone="muted")
    metric, verdict = manifest.quality.metric(name), verdict_of(manifest.quality, name)
    is_broken = verdict is not None and verdict.outcome is not Outcome.HOLDS
    return figure(shown_value(metric), shown_interval(metric), "bad" if is_broken else "")


def _throughput_cell(speed: Speed | None, rows: int, tokens: int, *, with_unit: bool = True) -> Cell:
    found = _throughput(speed, rows, tokens)
    if found is None:
        return figure(NOT_MEASURED)
    shown = rate(found.texts_per_s) if with_unit else significant(found.texts_per_s)
    return figure(shown, f"[{significant(found.low)}, {significant(found.high)}]")


def _throughput(speed: Speed | None, rows: int, tokens: int) -> Throughput | None:
    if speed is None:
        return None
    return next((item for item in speed.throughput if (item.rows, item.tokens) == (rows, tokens)), None)


def _shapes(speed: Speed) -> set[tuple[int, int]]:
    """Shapes as (tokens, rows), the order they are listed in."""
    return {(item.tokens, item.rows) for item in speed.throughput}


def _bench_name(bench: Bench) -> str:
    return f"{bench.machine_id}, {bench.threads} {'thread' if bench.threads == 1 else 'threads'}"


def _measured_in_words(bench: Bench, names: dict[str, str]) -> str:
    return ", ".join(f"{names.get(ref, ref)} at {speed.measured_at}" for ref, speed in bench.speeds.items())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
