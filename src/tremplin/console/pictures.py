"""The plots of the models' pages: a title that says the finding, the picture, and its numbers as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tremplin.console.contexts import MetricCell, MetricRow, Plot, PlotTable, VersionColumn
from tremplin.console.i18n import NBSP, Language
from tremplin.optimize.report.plots import (
    IntervalRow,
    ParetoPoint,
    Series,
    interval_chart,
    pareto_chart,
    throughput_chart,
)
from tremplin.registry.passport import Speed

# What the Pareto picture calls quality: the measure nearest to what users of the model notice.
QUALITY_METRICS = ("accuracy", "label_agreement", "retrieval_agreement", "cosine_mean")

MAX_INTERVAL_CHARTS = 4
MAX_SERIES = 5

# Versions within 5 % of each other are called equal: rounds of one measurement differ by about as much.
NOISE = 0.05


def model_plots(
    columns: Sequence[VersionColumn],
    metrics: Sequence[MetricRow],
    speeds: Sequence[Speed | None],
    language: Language,
) -> tuple[Plot, ...]:
    """Return the pictures that compare versions; those that lack two versions to compare are left out."""
    compared = [
        _throughput_by_version(columns, speeds, language),
        *(_metric_by_version(columns, row, language) for row in _bounded(metrics)[:MAX_INTERVAL_CHARTS]),
    ]
    return tuple(plot for plot in compared if plot is not None)


def version_plots(metrics: Sequence[MetricRow], speeds: Sequence[Speed], language: Language) -> tuple[Plot, ...]:
    """Return the pictures of one version: its proofs, and its throughput by batch and length."""
    plots = [_proofs(metrics, language), _throughput_by_length(speeds[0], language) if speeds else None]
    return tuple(plot for plot in plots if plot is not None)


# -- quality against latency ---------------------------------------------------------------------------


def pareto_plot(columns: Sequence[VersionColumn], metrics: Sequence[MetricRow], language: Language) -> Plot | None:
    """Return quality against latency; None when fewer than two versions have both."""
    row = next((row for name in QUALITY_METRICS for row in metrics if row.name == name), None)
    if row is None:
        return None
    measured = [
        (column, cell, column.speed)
        for column, cell in zip(columns, row.cells, strict=True)
        if cell is not None and column.speed is not None
    ]
    if len(measured) < 2:
        return None
    factor = 100 if row.is_share else 1
    points = [
        ParetoPoint(
            label=column.version,
            x=speed.p50_ms,
            y=factor * cell.value,
            y_low=factor * cell.low,
            y_high=factor * cell.high,
            size=column.size_bytes,
            chosen=column.live is not None,
        )
        for column, cell, speed in measured
    ]
    quality, latency = metric_label(row, language), language("plot.latency_axis")
    title = _pareto_finding([(column, speed.p50_ms) for column, _, speed in measured], language)
    table = PlotTable(
        (language("models.version"), language("models.p50"), quality, language("models.size")),
        tuple(
            (
                column.version,
                language.ms(speed.p50_ms),
                _shown(row, cell, language),
                language.size(column.size_bytes),
            )
            for column, cell, speed in measured
        ),
    )
    unit = f"{quality}, %" if row.is_share else quality
    picture = pareto_chart(title, points, x_label=latency, y_label=unit)
    return Plot(title, in_language(picture, language, [point.label for point in points]), table)


def _pareto_finding(latencies: Sequence[tuple[VersionColumn, float]], language: Language) -> str:
    """Say what the version that serves gains, or the fastest one when none serves."""
    slowest = max(latencies, key=lambda pair: pair[1])
    serving = [pair for pair in latencies if pair[0].live is not None and pair is not slowest]
    fastest = min(serving or latencies, key=lambda pair: pair[1])
    if slowest[1] < fastest[1] * (1 + NOISE):
        return language("plot.same_speed")
    ratio = language.significant(slowest[1] / fastest[1], 2)
    return language("plot.faster", fastest=fastest[0].version, slowest=slowest[0].version, ratio=ratio)


# -- intervals -----------------------------------------------------------------------------------------


def _bounded(metrics: Sequence[MetricRow]) -> list[MetricRow]:
    return [
        row for row in metrics if any(cell is not None and cell.state in {"met", "broken"} for cell in row.cells)
    ]


def _metric_by_version(columns: Sequence[VersionColumn], row: MetricRow, language: Language) -> Plot | None:
    measured = [
        (column.version, cell)
        for column, cell in zip(columns, row.cells, strict=True)
        if cell is not None and cell.state != "reference"
    ]
    if len(measured) < 2:
        return None
    broken = [version for version, cell in measured if cell.state == "broken"]
    name = metric_label(row, language)
    if broken:
        title = language("plot.metric_broken", metric=name, versions=", ".join(broken))
    else:
        title = language("plot.metric_met", metric=name)
    return _intervals(title, [(version, row, cell) for version, cell in measured], language)


def _proofs(metrics: Sequence[MetricRow], language: Language) -> Plot | None:
    """Draw the metrics that promise a least value: those share the scale from 0 to 1."""
    rows = [
        (metric_label(row, language), row, cell)
        for row in metrics
        for cell in row.cells
        if cell is not None and cell.at_least is not None and cell.at_most is None
    ]
    if not rows:
        return None
    broken = sum(cell.state == "broken" for _, _, cell in rows)
    title = language.plural("plot.proofs_broken", broken) if broken else language("plot.proofs_met")
    return _intervals(title, rows, language)


def _intervals(title: str, rows: Sequence[tuple[str, MetricRow, MetricCell]], language: Language) -> Plot:
    in_percent = all(row.is_share for _, row, _ in rows)
    factor = 100 if in_percent else 1
    drawn = [
        IntervalRow(
            label=label,
            value=factor * cell.value,
            low=factor * cell.low,
            high=factor * cell.high,
            bound=None if (bound := _bound(cell)) is None else factor * bound,
            is_met=None if cell.state == "none" else cell.state == "met",
        )
        for label, _, cell in rows
    ]
    table = PlotTable(
        ("", language("models.measured"), language("models.bound"), language("models.verdict"), "n"),
        tuple(
            (
                label,
                _shown(row, cell, language),
                bound_text(cell, row, language),
                language(f"bound.{cell.state}"),
                language.number(cell.n),
            )
            for label, row, cell in rows
        ),
    )
    picture = interval_chart(title, drawn, unit="%" if in_percent else "")
    return Plot(title, in_language(picture, language, [label for label, _, _ in rows]), table)


def _bound(cell: MetricCell) -> float | None:
    return cell.at_least if cell.at_least is not None else cell.at_most


# -- throughput ----------------------------------------------------------------------------------------


def _throughput_by_version(
    columns: Sequence[VersionColumn], speeds: Sequence[Speed | None], language: Language
) -> Plot | None:
    measured = [
        (column.version, speed)
        for column, speed in zip(columns, speeds, strict=True)
        if speed is not None and speed.throughput
    ]
    if len(measured) < 2:
        return None
    tokens = measured[0][1].latency_tokens
    lengths = {shape.tokens for _, speed in measured for shape in speed.throughput}
    length = min(lengths, key=lambda length: abs(length - tokens))
    series = [(version, _points(speed, length)) for version, speed in measured]
    series = [(version, points) for version, points in series if points]
    if not series:
        return None
    best = max(series, key=lambda item: max(rate for _, rate in item[1]))
    title = language(
        "plot.throughput_versions",
        version=best[0],
        rate=language.significant(max(rate for _, rate in best[1])),
        tokens=length,
    )
    return _throughput(title, series, language("models.version"), language)


def _throughput_by_length(speed: Speed, language: Language) -> Plot | None:
    if not speed.throughput:
        return None
    lengths = sorted({shape.tokens for shape in speed.throughput})
    series = [(f"{length}{NBSP}{language('plot.tokens')}", _points(speed, length)) for length in lengths]
    best = max(speed.throughput, key=lambda shape: shape.texts_per_s)
    title = language(
        "plot.throughput_best",
        rate=language.significant(best.texts_per_s),
        rows=best.rows,
        tokens=best.tokens,
    )
    return _throughput(title, series, language("plot.length"), language)


def _throughput(
    title: str, series: Sequence[tuple[str, list[tuple[float, float]]]], name: str, language: Language
) -> Plot:
    picture = throughput_chart(
        title,
        [Series(label, points) for label, points in series[:MAX_SERIES]],
        x_label=language("plot.batch_axis"),
        y_label=language("plot.rate_axis"),
    )
    rows = sorted({x for _, points in series for x, _ in points})
    table = PlotTable(
        (name, *(language.plural("plot.rows", int(row)) for row in rows)),
        tuple(
            (label, *(language.significant(dict(points)[row]) if row in dict(points) else "" for row in rows))
            for label, points in series
        ),
    )
    return Plot(title, in_language(picture, language, [label for label, _ in series]), table)


def _points(speed: Speed, length: int) -> list[tuple[float, float]]:
    return [(shape.rows, shape.texts_per_s) for shape in speed.throughput if shape.tokens == length]


# -- words ---------------------------------------------------------------------------------------------

# The charts speak English, because they also go into reports. Longest first: some hold others.
CHART_PHRASES = (
    "area: size · ring: chosen · faint: dominated · bar: 95 % interval",
    "axis starts at",
    "Nothing was measured.",
    "nothing was measured",
    "not measured",
    "more in the table",
    "logarithmic",
    "not proven",
    "dominated",
    "chosen",
    "bound",
)
_TEXT_NODE = re.compile(r">([^<]+)<")
_AT = re.compile(r"(?<=\d) at (?=\d)")
# A number by itself: "0.995", not the beginning of "1.2-int8".
_DECIMAL_POINT = re.compile(r"(?<![\w.-])(\d[\d\u202f]*)\.(\d+)(?![\w.-])")


def in_language(svg: str, language: Language, labels: Sequence[str] = ()) -> str:
    """Return a chart with its own few words, and its numbers, as the reader's language writes them.

    Texts that are one of ``labels`` stay as they are: a version may be called 1.2.
    """
    if language.code == "en":
        return svg

    def translated(match: re.Match[str]) -> str:
        text = match[1]
        return match[0] if text in labels else f">{_translated(text, language)}<"

    return _TEXT_NODE.sub(translated, svg)


def _translated(text: str, language: Language) -> str:
    for phrase in CHART_PHRASES:
        text = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", language(f"chart.{phrase}"), text)
    text = _AT.sub(f" {language('chart.at')} ", text)
    return _DECIMAL_POINT.sub(r"\1,\2", text)


def metric_label(row: MetricRow, language: Language) -> str:
    """Return a metric's name in the reader's language; one the catalogue does not know keeps its own."""
    return language.or_else(f"metric.{row.name}", row.name.replace("_", " "))


def bound_text(cell: MetricCell, row: MetricRow, language: Language) -> str:
    """Return what was promised of a metric, such as ``≥ 97 %``; empty when nothing was."""
    parts = []
    for sign, bound in (("≥", cell.at_least), ("≤", cell.at_most)):
        if bound is not None:
            parts.append(f"{sign}{NBSP}{_plain(row, bound, language)}")
    return ", ".join(parts)


def metric_text(row: MetricRow, cell: MetricCell, language: Language) -> str:
    """Return a metric's value with its unit."""
    if cell.state == "reference":
        return language("bound.reference")
    return language.percent(cell.value) if row.is_share else language.precise(cell.value)


def interval_text(row: MetricRow, cell: MetricCell, language: Language) -> str:
    """Return a metric's interval; empty for an extreme, which has none."""
    if cell.low == cell.high:
        return ""
    if row.is_share:
        return f"{language.number(100 * cell.low, 1)} – {language.number(100 * cell.high, 1)}{NBSP}%"
    return f"{language.precise(cell.low)} – {language.precise(cell.high)}"


def difference(value: float, reference: float, language: Language) -> str:
    """Return how far a cost or a rate is from the reference's, or that the difference is within noise."""
    if not reference:
        return ""
    change = value / reference - 1
    if abs(change) < NOISE:
        return language("models.within_noise")
    return f"{language.signed(100 * change)}{NBSP}%"


def _shown(row: MetricRow, cell: MetricCell, language: Language) -> str:
    interval = interval_text(row, cell, language)
    value = metric_text(row, cell, language)
    return f"{value} ({interval})" if interval else value


def _plain(row: MetricRow, value: float, language: Language) -> str:
    if row.is_share:
        return f"{language.plain(100 * value)}{NBSP}%"
    return language.plain(value)
