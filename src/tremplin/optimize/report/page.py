"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tremplin.optimize.report.cells import Table
from tremplin.optimize.report.compare import (
    Bench,
    Speeds,
    baseline_of,
    benches,
    chosen_of,
    differences,
    main_bench,
    short_names,
)
from tremplin.optimize.report.evidence import HeadReport, read_evidence
from tremplin.optimize.report.evidence_tables import classes_table
from tremplin.optimize.report.figures import (
    Figure,
    calibration_figure,
    candidates_figure,
    confusion_figure,
    quality_figures,
    throughput_figures,
    trade_off_figure,
)
from tremplin.optimize.report.findings import bounds_in_words, headline, remarks
from tremplin.optimize.report.provenance import (
    artefacts_table,
    benches_table,
    lineage_table,
    quality_sources_table,
)
from tremplin.optimize.report.tables import differences_table, versions_table
from tremplin.registry.manifest import Manifest

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Evidence:
    """What one version's report adds: schemes tried, labels, confusions, calibration."""

    title: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True)
class ReportContext:
    """What the template shows; every field is plain text, a table or a figure."""

    title: str
    headline: str
    remarks: tuple[str, ...]
    versions: Table | None
    bench: str
    broken: tuple[tuple[str, str], ...]
    """Versions whose bounds are not all proven, and what the evidence says."""
    comparisons: tuple[Table, ...]
    trade_off: Figure | None
    quality: tuple[Figure, ...]
    throughput: tuple[Figure, ...]
    evidence: tuple[Evidence, ...]
    environment: tuple[Table, ...]
    lineage: tuple[Table, ...]
    command: str


def report_page(manifests: Sequence[Manifest], speeds: Speeds, *, command: str) -> str:
    """Return the report as one HTML page without a single outside reference.

    ``speeds`` is keyed by ``model@version`` (or ``version``); ``command`` is the line that makes the page
    again. The same input gives the same bytes. A server that sends a content policy adds ``style_source()``
    to its ``style-src``.
    """
    return render("report.html", report_context(manifests, speeds, command=command))


def render(template: str, page: object) -> str:
    """Return a page drawn by one of our templates, with the style they share; ``page`` is its context."""
    return (
        _environment()
        .get_template(template)
        .render(
            page=page,
            style=Markup(_style()),  # noqa: S704 (our own file)
            style_source=style_source(),
            svg=Markup,
        )
    )


def style_source() -> str:
    """Return the content policy source that allows the page's own style block and no other."""
    digest = hashlib.sha256(_style().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def report_context(manifests: Sequence[Manifest], speeds: Speeds, *, command: str) -> ReportContext:
    """Return everything the page shows, decided but not yet drawn as HTML."""
    models = " and ".join(sorted({manifest.model for manifest in manifests})) or "no model"
    if not manifests:
        return _empty_context(models, command)
    bench, names = main_bench(manifests, speeds), short_names(manifests)
    baseline, chosen = baseline_of(manifests), chosen_of(manifests, bench)
    places = benches(manifests, speeds)
    return ReportContext(
        title=f"{models}: what was measured",
        headline=headline(manifests, speeds),
        remarks=tuple(remarks(manifests, speeds)),
        versions=versions_table(manifests, bench),
        bench=bench.label,
        broken=tuple(
            (names[item.ref], bounds_in_words(item.quality)) for item in manifests if item.quality.broken_bounds()
        ),
        comparisons=_comparisons(manifests, baseline, chosen, bench),
        trade_off=trade_off_figure(manifests, bench, baseline, chosen) if len(manifests) > 1 else None,
        quality=tuple(quality_figures(manifests)),
        throughput=tuple(throughput_figures(manifests, bench)),
        evidence=_evidence(manifests),
        environment=(
            *((benches_table(places, manifests),) if places else ()),
            quality_sources_table(manifests),
        ),
        lineage=(lineage_table(manifests), artefacts_table(manifests)),
        command=command,
    )


def _comparisons(
    manifests: Sequence[Manifest], baseline: Manifest, chosen: Manifest, bench: Bench
) -> tuple[Table, ...]:
    """Return each version against the baseline, the chosen one first."""
    names = short_names(manifests)
    others = [item for item in manifests if item is not baseline]
    others.sort(key=lambda item: item is not chosen)
    return tuple(
        differences_table(differences(baseline, item, bench), names[baseline.ref], names[item.ref])
        for item in others
    )


def _evidence(manifests: Sequence[Manifest]) -> tuple[Evidence, ...]:
    names = short_names(manifests)
    found = [_evidence_of(names[item.ref], read_evidence(item.report)) for item in manifests]
    return tuple(item for item in found if item.figures or item.tables or item.unread)


def _evidence_of(name: str, report: HeadReport) -> Evidence:
    figures = []
    if report.candidates:
        figures.append(candidates_figure(report.candidates))
    if report.confusion is not None:
        figures.append(confusion_figure(report.confusion))
    if report.calibration is not None:
        figures.append(calibration_figure(report.calibration))
    tables = (classes_table(report.classes),) if report.classes else ()
    return Evidence(_evidence_title(name, report), tuple(figures), tables, report.unread)


def _evidence_title(name: str, report: HeadReport) -> str:
    errs = bool(report.classes or report.confusion or report.calibration)
    if not errs:
        return f"How {name} came about"
    return f"How {name} came about and where it errs" if report.candidates else f"Where {name} errs"


def _empty_context(models: str, command: str) -> ReportContext:
    return ReportContext(
        title=f"{models}: what was measured",
        headline=headline([], {}),
        remarks=tuple(remarks([], {})),
        versions=None,
        bench="",
        broken=(),
        comparisons=(),
        trade_off=None,
        quality=(),
        throughput=(),
        evidence=(),
        environment=(),
        lineage=(),
        command=command,
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> str:
    return (TEMPLATES / "report.css").read_text(encoding="utf-8")
