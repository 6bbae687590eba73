"""The report of a study as one HTML page that needs nothing but itself.

study.json -> study_file -> findings, tables, figures -> StudyContext -> templates/study.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tremplin.optimize.report.cells import Table
from tremplin.optimize.report.evidence import read_evidence
from tremplin.optimize.report.figures import Figure
from tremplin.optimize.report.page import render
from tremplin.optimize.report.study_figures import (
    confusion_figure,
    curve_figures,
    front_figure,
    losses_figure,
    reliability_figure,
)
from tremplin.optimize.report.study_file import StudyEntry, StudyFile, read_study
from tremplin.optimize.report.study_findings import (
    broken_classes,
    classes_in_words,
    headline,
    machine_in_words,
    quality_in_sentence,
    remarks,
    shown_first,
)
from tremplin.optimize.report.study_steps import steps_of
from tremplin.optimize.report.study_tables import (
    class_losses_table,
    environment_table,
    front_table,
    slices_table,
    steps_table,
    study_versions_table,
)
from tremplin.registry.files import write_atomically

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Errors:
    """Where one version errs, and where it does worse than the reference."""

    name: str
    summary: str
    is_open: bool
    """Whether it is shown unfolded: the chosen version, and those with a broken class."""
    classes: Table | None
    """None when no class loses anything."""
    figures: tuple[Figure, ...]
    unread: tuple[str, ...]
    """Keys of its evidence in a form this release cannot read."""


@dataclass(frozen=True)
class StudyContext:
    """What the template shows; every field is plain text, a table or a figure."""

    eyebrow: str
    headline: str
    remarks: tuple[str, ...]
    objectives: str
    """What the front is drawn over, in words."""
    front: Figure | None
    front_table: Table | None
    """In the figure's place when nothing could be drawn."""
    machine: str
    versions: Table
    verdicts: tuple[tuple[str, tuple[str, ...]], ...]
    """Versions that fail, with the gate's reasons."""
    losses: Figure | None
    slices: Table | None
    errors: tuple[Errors, ...]
    curves: tuple[Figure, ...]
    steps: Table
    recipes: tuple[tuple[str, str], ...]
    """Names and YAML."""
    environment: Table
    notes: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    study_command: str
    page_command: str


def write_study_report(run_folder: Path, out: Path) -> None:
    """Write the report of a run's study as one HTML page; raises BadInput when there is no finished study."""
    write_atomically(out, study_page(read_study(run_folder)).encode())


def study_page(study: StudyFile) -> str:
    """Return the page; the same study gives the same bytes."""
    return render("study.html", study_context(study))


def page_command(study: StudyFile) -> str:
    """Return the command line that makes the page again."""
    return f"tremplin report --run {study.name}"


def study_context(study: StudyFile) -> StudyContext:
    """Return everything the page shows, decided but not yet drawn as HTML."""
    front = front_figure(study)
    corpus = f" · {study.corpus.name}" if study.corpus.name else ""
    return StudyContext(
        eyebrow=f"Tremplin study {study.name}{corpus}",
        headline=headline(study),
        remarks=tuple(remarks(study)),
        objectives=_objectives(study),
        front=front,
        front_table=front_table(study) if front is None else None,
        machine=machine_in_words(study),
        versions=study_versions_table(study),
        verdicts=tuple((entry.name, entry.reasons) for entry in study.entries if entry.reasons),
        losses=losses_figure(study),
        slices=slices_table(study) if any(entry.slices for entry in study.entries) else None,
        errors=_errors(study),
        curves=tuple(curve_figures(study)),
        steps=steps_table(study),
        recipes=tuple((entry.name, entry.recipe.rstrip()) for entry in study.entries if entry.recipe.strip()),
        environment=environment_table(study),
        notes=all_notes(study),
        failures=tuple((failure.name, failure.reason) for failure in study.failures),
        study_command=study.command,
        page_command=page_command(study),
    )


def all_notes(study: StudyFile) -> tuple[str, ...]:
    """Return what was warned of: the data (leaks, duplicates), then the steps, each once."""
    of_steps = [note for entry in study.entries for record in steps_of(entry) for note in record.notes]
    return tuple(dict.fromkeys((*study.corpus.notes, *study.notes, *of_steps)))


def _objectives(study: StudyFile) -> str:
    has_memory = any(entry.memory_bytes for entry in study.entries)
    return f"{quality_in_sentence(study.reference)}, latency, rate{', memory' * has_memory} and size"


def _errors(study: StudyFile) -> tuple[Errors, ...]:
    """Return where each version errs, the one to look at first first and the reference last."""
    first = shown_first(study)
    order = sorted(study.entries, key=lambda entry: (entry is not first, entry.is_reference))
    compared = [entry for entry in order if entry.classes or entry.report]
    return tuple(_errors_of(entry, study, is_first=entry is first) for entry in compared)


def _errors_of(entry: StudyEntry, study: StudyFile, *, is_first: bool) -> Errors:
    figures = (confusion_figure(entry, study.reference), reliability_figure(entry))
    losses = class_losses_table(entry)
    return Errors(
        name=entry.name,
        summary="the others are judged against it" if entry.is_reference else classes_in_words(entry),
        is_open=is_first or bool(broken_classes(entry)),
        classes=losses if losses.rows else None,
        figures=tuple(item for item in figures if item is not None),
        unread=read_evidence(entry.report).unread,
    )
