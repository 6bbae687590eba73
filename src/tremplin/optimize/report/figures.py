"""The pictures of a report, each with the table of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tremplin.optimize.report.cells import Table
from tremplin.optimize.report.compare import Bench, short_names
from tremplin.optimize.report.evidence import Calibration, Confusion, TriedScheme
from tremplin.optimize.report.evidence_tables import calibration_table, candidates_table, confusions_table
from tremplin.optimize.report.findings import main_metric, metric_beside, metric_finding, throughput_finding
from tremplin.optimize.report.numbers import NO_BREAK_SPACE, number
from tremplin.optimize.report.plots import (
    IntervalRow,
    ParetoPoint,
    Series,
    confusion_chart,
    interval_chart,
    pareto_chart,
    reliability_chart,
    throughput_chart,
)
from tremplin.optimize.report.tables import metric_order, metric_table, throughput_table, trade_off_table
from tremplin.optimize.report.verdict import Outcome, verdict_of
from tremplin.optimize.report.wording import MetricWords, read_as
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Metric


@dataclass(frozen=True)
class Figure:
    """A picture (SVG markup) and the table of its data."""

    svg: str
    table: Table
    is_stacked: bool = False
    """Whether the table is too wide to stand beside the picture."""


def quality_figures(manifests: Sequence[Manifest]) -> list[Figure]:
    """Return one picture per metric: every version's interval against its bound."""
    return [_metric_figure(name, manifests) for name in metric_order(manifests)]


def throughput_figures(manifests: Sequence[Manifest], bench: Bench) -> list[Figure]:
    """Return one picture per text length that was measured with more than one batch size."""
    lengths: dict[int, set[int]] = {}
    for speed in bench.speeds.values():
        for item in speed.throughput:
            lengths.setdefault(item.tokens, set()).add(item.rows)
    return [
        _throughput_figure(tokens, manifests, bench) for tokens, rows in sorted(lengths.items()) if len(rows) > 1
    ]


def trade_off_figure(
    manifests: Sequence[Manifest], bench: Bench, baseline: Manifest, chosen: Manifest
) -> Figure | None:
    """Return the Pareto picture of the versions; None when quality or latency was not measured."""
    name = main_metric(manifests, baseline, chosen)
    if name is None or not bench.speeds:
        return None
    words, names, points = read_as(name), short_names(manifests), []
    for manifest in manifests:
        metric, speed = metric_beside(name, manifest, manifests), bench.speeds.get(manifest.ref)
        if metric is not None and speed is not None:
            is_chosen = manifest is chosen
            points.append(_point(names[manifest.ref], speed.p50_ms, metric, manifest.size_bytes, chosen=is_chosen))
    svg = pareto_chart(
        f"{words.label} against latency: {names[chosen.ref]} is chosen",
        points,
        x_label=f"p50 of one text of {_latency_tokens(bench)} tokens, ms",
        y_label=_y_label(words),
    )
    return Figure(svg, trade_off_table(manifests, bench, name, chosen))


def candidates_figure(candidates: Sequence[TriedScheme]) -> Figure:
    """Return the schemes the optimiser tried: quality against the time one text costs in a batch."""
    name = _candidates_metric(candidates)
    words, points = read_as(name), []
    for item in candidates:
        metric = next((metric for metric in item.metrics if metric.name == name), None)
        if metric is not None and item.texts_per_s > 0:
            cost_ms = 1000 / item.texts_per_s
            points.append(_point(item.scheme, cost_ms, metric, item.size_bytes, chosen=item.chosen))
    winner = next((item.scheme for item in candidates if item.chosen), "none")
    svg = pareto_chart(
        f"{len(candidates)} schemes were tried: {winner} was chosen",
        points,
        x_label="time per text at full load, ms",
        y_label=_y_label(words),
    )
    return Figure(svg, candidates_table(candidates), is_stacked=True)


def confusion_figure(confusion: Confusion) -> Figure:
    """Return the confusion matrix with its commonest confusions."""
    table = confusions_table(confusion)
    title = "No label is taken for another"
    if table.rows:
        true, predicted, count = (cell.text for cell in table.rows[0].cells)
        title = f"The commonest confusion: {true} read as {predicted} ({count} texts)"
    return Figure(confusion_chart(title, confusion.labels, confusion.matrix), table)


def calibration_figure(calibration: Calibration) -> Figure:
    """Return confidence against what came true."""
    points = f"{number(100 * calibration.ece, 1)}{NO_BREAK_SPACE}points"
    title = f"Confidence is off by {points} on average (expected calibration error)"
    return Figure(reliability_chart(title, calibration.bins), calibration_table(calibration))


def _metric_figure(name: str, manifests: Sequence[Manifest]) -> Figure:
    words, names, rows = read_as(name), short_names(manifests), []
    for manifest in manifests:
        metric = manifest.quality.metric(name) or metric_beside(name, manifest, manifests)
        if metric is None:
            continue
        verdict = verdict_of(manifest.quality, name)
        limit = None
        if verdict is not None:
            limit = verdict.bound.at_most if verdict.bound.at_least is None else verdict.bound.at_least
        rows.append(
            IntervalRow(
                label=names[manifest.ref],
                value=metric.value * words.factor,
                low=metric.low * words.factor,
                high=metric.high * words.factor,
                bound=None if limit is None else limit * words.factor,
                is_met=None if verdict is None else verdict.outcome is Outcome.HOLDS,
            )
        )
    svg = interval_chart(metric_finding(name, manifests), rows, unit=words.unit)
    return Figure(svg, metric_table(name, manifests))


def _throughput_figure(tokens: int, manifests: Sequence[Manifest], bench: Bench) -> Figure:
    names, series = short_names(manifests), []
    for manifest in manifests:
        speed = bench.speeds.get(manifest.ref)
        if speed is not None:
            points = [(item.rows, item.texts_per_s) for item in speed.throughput if item.tokens == tokens]
            series.append(Series(names[manifest.ref], points))
    title = throughput_finding(tokens, manifests, bench)
    svg = throughput_chart(title, series, x_label="texts in a batch", y_label="texts/s")
    return Figure(svg, throughput_table(tokens, manifests, bench))


def _point(label: str, cost_ms: float, metric: Metric, size_bytes: int, *, chosen: bool) -> ParetoPoint:
    factor = read_as(metric.name).factor
    return ParetoPoint(
        label=label,
        x=cost_ms,
        y=metric.value * factor,
        y_low=metric.low * factor,
        y_high=metric.high * factor,
        size=size_bytes,
        chosen=chosen,
    )


def _candidates_metric(candidates: Sequence[TriedScheme]) -> str:
    """Return the metric to draw: the first share where more is better, else the first of all."""
    names = list(dict.fromkeys(metric.name for item in candidates for metric in item.metrics))
    good = [name for name in names if read_as(name).is_share and not read_as(name).is_less_better]
    return next(iter(good + names), "")


def _latency_tokens(bench: Bench) -> str:
    return " or ".join(str(tokens) for tokens in sorted({s.latency_tokens for s in bench.speeds.values()}))


def _y_label(words: MetricWords) -> str:
    return f"{words.label}, {words.unit}" if words.unit else words.label
