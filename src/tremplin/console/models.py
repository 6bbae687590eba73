"""The models' pages: what there is, how versions compare, what was measured of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tremplin.console.contexts import (
    BoundState,
    Conditions,
    MetricCell,
    MetricRow,
    ModelPage,
    ModelRow,
    ModelsPage,
    Recommendation,
    SpeedCell,
    VersionColumn,
    VersionPage,
)
from tremplin.console.i18n import Language
from tremplin.console.pictures import NOISE, model_plots, pareto_plot, version_plots
from tremplin.console.view import LiveVersion
from tremplin.errors import UnknownVersion
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Bound, Metric, Quality, Speed
from tremplin.registry.store import Registry

SHARES = frozenset(
    {
        "retrieval_agreement",
        "label_agreement",
        "parity_label_agreement",
        "accuracy",
        "accuracy_reference",
        "accuracy_when_answered",
        "coverage",
    }
)

# Measures of agreement with the reference: the reference has 1 of each, whether or not anybody measured it.
AGREEMENTS = frozenset({"cosine_mean", "cosine_min", "retrieval_agreement", "label_agreement"})

# A chain of versions that names itself would not end.
MAX_LINEAGE = 20

Live = Sequence[LiveVersion]
Setting = tuple[str, int]
"""Machine id and threads: speeds compare only within one."""


def models_page(registry: Registry, live: Live, base: str) -> ModelsPage:
    """Return every model with the version that represents it: the one that serves, else the newest."""
    return ModelsPage(
        tuple(
            _model_row(registry, versions, live, base)
            for versions in map(registry.versions, registry.models())
            if versions
        )
    )


def model_page(registry: Registry, live: Live, model: str, base: str, language: Language) -> ModelPage:
    """Return the versions of a model side by side; raises UnknownVersion when there is none."""
    registry.latest(model)
    versions = registry.versions(model)
    speeds = [registry.speeds(manifest) for manifest in versions]
    compared = _comparable(speeds)
    columns = tuple(
        _column(manifest, live, speed, base) for manifest, speed in zip(versions, compared, strict=True)
    )
    metrics = metric_rows(versions)
    return ModelPage(
        model=model,
        task=str(versions[-1].interface.task),
        recommendation=_recommendation(columns),
        live=tuple(column.version for column in columns if column.live),
        versions=columns,
        metrics=metrics,
        conditions=_conditions(compared),
        pareto=pareto_plot(columns, metrics, language),
        plots=model_plots(columns, metrics, compared, language),
        forced=tuple(column for column in columns if column.live and column.live.forced),
    )


def version_page(registry: Registry, live: Live, manifest: Manifest, base: str, language: Language) -> VersionPage:
    """Return the passport of one version."""
    quality, interface = manifest.quality, manifest.interface
    metrics = metric_rows([manifest])
    speeds = tuple(sorted(registry.speeds(manifest), key=lambda speed: speed.measured_at, reverse=True))
    return VersionPage(
        model=manifest.model,
        model_href=f"{base}/models/{manifest.model}",
        version=manifest.version,
        ref=manifest.ref,
        task=str(interface.task),
        precision=manifest.precision,
        created_at=manifest.created_at,
        size_bytes=manifest.size_bytes,
        live=_live_of(manifest, live),
        metrics=metrics,
        bounds_met=_bounds_met(quality),
        bounds_total=len(quality.bounds),
        reference=quality.reference,
        data=quality.data,
        data_sha256=quality.data_sha256,
        seed=quality.seed,
        software=quality.software,
        max_tokens=interface.max_tokens,
        embedding_dim=interface.embedding_dim,
        labels=interface.labels,
        abstain_below=interface.abstain_below,
        source=manifest.origin.source,
        architecture=manifest.origin.architecture,
        recipe=manifest.origin.recipe,
        notes=manifest.origin.notes,
        lineage=_lineage(registry, manifest),
        artefacts=manifest.artefacts,
        speeds=speeds,
        plots=version_plots(metrics, speeds, language),
    )


def _recommendation(columns: Sequence[VersionColumn]) -> Recommendation | None:
    """Choose among the measured versions that meet every bound: the fastest, and of equals the smallest."""
    proven = [
        (column, column.speed)
        for column in columns
        if column.speed is not None and column.bounds_met == column.bounds_total
    ]
    if not proven:
        return None
    least_ms = min(speed.p50_ms for _, speed in proven)
    fast = [(column, speed) for column, speed in proven if speed.p50_ms <= least_ms * (1 + NOISE)]
    best, speed = min(fast, key=lambda pair: pair[0].size_bytes)
    first = columns[0]
    first_ms = first.speed.p50_ms if first.speed is not None else speed.p50_ms
    return Recommendation(
        version=best.version,
        href=best.href,
        live=best.live,
        against=first.version,
        times_faster=first_ms / speed.p50_ms,
        size_share=best.size_bytes / max(first.size_bytes, 1),
    )


# -- quality -----------------------------------------------------------------------------------------


def metric_rows(versions: Sequence[Manifest]) -> tuple[MetricRow, ...]:
    """Return each metric across versions: what most versions have first, and of those what has a bound."""
    qualities = [manifest.quality for manifest in versions]
    references = {quality.reference for quality in qualities}
    bounded = [bound.metric for quality in qualities for bound in quality.bounds]
    measured = [metric.name for quality in qualities for metric in quality.metrics]
    known = set(measured)
    rows = [
        MetricRow(
            name,
            name in SHARES,
            tuple(_cell(manifest, name, is_reference=manifest.ref in references) for manifest in versions),
        )
        for name in dict.fromkeys([*bounded, *measured])
        if name in known
    ]
    return tuple(sorted(rows, key=lambda row: row.cells.count(None)))


def _cell(manifest: Manifest, name: str, *, is_reference: bool) -> MetricCell | None:
    quality = manifest.quality
    metric = quality.metric(name)
    if metric is None:
        agrees = is_reference and name in AGREEMENTS
        return MetricCell(1.0, 1.0, 1.0, 0, None, None, "reference") if agrees else None
    bounds = [bound for bound in quality.bounds if bound.metric == name]
    return MetricCell(
        value=metric.value,
        low=metric.low,
        high=metric.high,
        n=metric.n,
        at_least=next((bound.at_least for bound in bounds if bound.at_least is not None), None),
        at_most=next((bound.at_most for bound in bounds if bound.at_most is not None), None),
        state=_bound_state(bounds, metric),
    )


def _bound_state(bounds: Sequence[Bound], metric: Metric) -> BoundState:
    if not bounds:
        return "none"
    return "met" if all(bound.is_met_by(metric) for bound in bounds) else "broken"


def _bounds_met(quality: Quality) -> int:
    return len(quality.bounds) - len(quality.broken_bounds())


# -- speed -------------------------------------------------------------------------------------------


def _comparable(speeds: Sequence[Sequence[Speed]]) -> list[Speed | None]:
    """Return one speed per version, all under the setting that most versions were measured in."""
    counts: Counter[Setting] = Counter(
        setting for of_version in speeds for setting in {_setting(speed) for speed in of_version}
    )
    if not counts:
        return [None] * len(speeds)
    newest = {_setting(speed): speed.measured_at for of_version in speeds for speed in of_version}
    best = max(counts, key=lambda setting: (counts[setting], newest[setting]))
    return [next((speed for speed in of_version if _setting(speed) == best), None) for of_version in speeds]


def _setting(speed: Speed) -> Setting:
    return speed.machine.id, speed.threads


def _conditions(compared: Sequence[Speed | None]) -> Conditions | None:
    speed = next((speed for speed in compared if speed is not None), None)
    if speed is None:
        return None
    return Conditions(
        cpu=speed.machine.cpu,
        cores=speed.machine.cores,
        threads=speed.threads,
        engine=speed.engine,
        tokens=speed.latency_tokens,
        measured_at=max(speed.measured_at for speed in compared if speed is not None),
    )


def _speed_cell(speed: Speed | None) -> SpeedCell | None:
    if speed is None:
        return None
    return SpeedCell(
        p50_ms=speed.p50_ms,
        p99_ms=speed.p99_ms,
        texts_per_s=_best_rate(speed),
        peak_memory_bytes=speed.peak_memory_bytes,
        load_ms=speed.load_ms,
    )


def _best_rate(speed: Speed) -> float | None:
    """Return the best measured texts per second at the length nearest to the latency measurement's."""
    lengths = {shape.tokens for shape in speed.throughput}
    if not lengths:
        return None
    nearest = min(lengths, key=lambda tokens: abs(tokens - speed.latency_tokens))
    return max(shape.texts_per_s for shape in speed.throughput if shape.tokens == nearest)


# -- rows and columns ----------------------------------------------------------------------------------


def _model_row(registry: Registry, versions: Sequence[Manifest], live: Live, base: str) -> ModelRow:
    newest = versions[-1]
    serving = tuple(version for version in live if version.ref in {manifest.ref for manifest in versions})
    shown = next((m for m in versions if serving and m.ref == serving[0].ref), newest)
    speed = max(registry.speeds(shown), key=lambda speed: speed.measured_at, default=None)
    return ModelRow(
        name=newest.model,
        href=f"{base}/models/{newest.model}",
        task=str(newest.interface.task),
        versions=len(versions),
        live=serving,
        newest=newest.version,
        shown=shown.version,
        size_bytes=shown.size_bytes,
        p50_ms=speed.p50_ms if speed else None,
        bounds_met=_bounds_met(shown.quality),
        bounds_total=len(shown.quality.bounds),
    )


def _column(manifest: Manifest, live: Live, speed: Speed | None, base: str) -> VersionColumn:
    return VersionColumn(
        version=manifest.version,
        ref=manifest.ref,
        href=f"{base}/models/{manifest.model}/{manifest.version}",
        precision=manifest.precision,
        size_bytes=manifest.size_bytes,
        created_at=manifest.created_at,
        live=_live_of(manifest, live),
        bounds_met=_bounds_met(manifest.quality),
        bounds_total=len(manifest.quality.bounds),
        speed=_speed_cell(speed),
    )


def _live_of(manifest: Manifest, live: Live) -> LiveVersion | None:
    return next((version for version in live if version.ref == manifest.ref), None)


def _lineage(registry: Registry, manifest: Manifest) -> tuple[str, ...]:
    """Return where a version comes from, first source first, itself last."""
    line = [manifest.ref]
    source = manifest.origin.source
    for _ in range(MAX_LINEAGE):
        line.insert(0, source)
        model, _, version = source.partition("@")
        if not version:
            break
        try:
            source = registry.get(model, version).origin.source
        except UnknownVersion:
            break
    return tuple(line)
