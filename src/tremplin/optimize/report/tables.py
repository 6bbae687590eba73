"""The tables of what was measured: versions side by side, each metric, throughput, differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tremplin.optimize.report.cells import Cell, Row, Table, figure, outcome_cell, words
from tremplin.optimize.report.compare import Bench, Difference, shape_in_words, short_names
from tremplin.optimize.report.findings import is_reference, metric_beside
from tremplin.optimize.report.numbers import (
    NOT_MEASURED,
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
    if any(speed.costs.error and speed.costs.error.n for speed in bench.speeds.values()):
        fitted = "median over shapes it was not fitted to"
        rows.append(row("Batch time, prediction off by", timed(_cost_error), fitted))
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


def _cost_error(speed: Speed) -> str:
    error = speed.costs.error
    return with_unit(number(100 * error.median, 1), "%") if error is not None and error.n else NOT_MEASURED


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


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
