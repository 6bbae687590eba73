"""The pages of optimising: the runs there are and what starts another, and one run with what it found."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from tremplin.console.contexts import (
    OptimisePage,
    Problem,
    PublishedVersion,
    Refusal,
    RunPanel,
    RunRow,
    RunsPanel,
    RunStatus,
    StartForm,
)
from tremplin.console.desk import KnownRun, RunDesk, log_of
from tremplin.console.i18n import Language
from tremplin.console.orders import DEFAULTS
from tremplin.console.studies import (
    failures_of,
    finding_of,
    front_plot,
    page_of,
    seconds_of,
    study_of,
    versions_of,
)
from tremplin.console.view import LiveVersion
from tremplin.registry.task import Task

SILENT_AFTER_S = 300
"""A run that has said nothing for this long may hang; the page says since when."""

COMMAND = "tremplin optimize {model} --labelled texts.csv --name intents"
IMPORT = "tremplin import sentence-transformers/all-MiniLM-L6-v2"
INSTALL = ("pip install torch==2.13.0", "pip install 'tremplin[optimize]'")


def optimise_page(
    desk: RunDesk,
    base: str,
    *,
    may_start: bool,
    values: Mapping[str, str] | None = None,
    refusal: Refusal | None = None,
) -> OptimisePage:
    """Return the runs and the form; ``values`` and ``refusal`` are what was sent and why it was not taken."""
    panel, models = runs_panel(desk, base), desk.models()
    command = COMMAND.format(model=models[0] if models else "minilm")
    if not may_start:
        return OptimisePage(panel, "reader", None, ("tremplin keys create --operator", command))
    if not models:
        return OptimisePage(panel, "no_model", None, (IMPORT,))
    if not desk.can_train():
        return OptimisePage(panel, "no_torch", None, (*INSTALL, command))
    busy = next((row.status.name for row in panel.runs if _is_active(row.status)), "")
    filled = {**DEFAULTS, "model": models[0], **(values or {})}
    return OptimisePage(panel, "", StartForm(models, filled, desk.max_upload_bytes, busy, refusal), ())


def runs_panel(desk: RunDesk, base: str) -> RunsPanel:
    """Return the list of runs."""
    rows = tuple(_row(known, base) for known in desk.all())
    return RunsPanel(rows, f"{base}/optimise", any(_is_active(row.status) for row in rows))


def run_panel(
    desk: RunDesk,
    known: KnownRun,
    live: Sequence[LiveVersion],
    base: str,
    language: Language,
    *,
    may_start: bool,
    refusal: Refusal | None = None,
    problem: Problem | None = None,
) -> RunPanel:
    """Return a run; ``refusal`` and ``problem`` are why what was just asked of it was not done."""
    status = _status(known, base)
    # While it is worked again, the comparison of the last time would be taken for the new one.
    study = study_of(known.folder) if not _is_active(status) else None
    published = known.run.published if known.run is not None else ()
    can_publish = may_start and status.state == "done" and not desk.busy()
    return RunPanel(
        status=status,
        is_active=known.is_active,
        can_stop=may_start and known.is_ours,
        can_go_on=may_start and status.state in {"stopped", "failed"} and bool(known.arguments),
        command=known.command,
        allowed_points=_allowed(known) if study is None or study.allowed_points is None else study.allowed_points,
        log=log_of(known.folder) if status.state == "failed" else (),
        finding=finding_of(study) if study is not None else None,
        pareto=front_plot(study, language) if study is not None else None,
        versions=versions_of(study, published, base, can_publish=can_publish) if study is not None else (),
        worked_seconds=seconds_of(study) if study is not None else 0.0,
        failures=failures_of(study) if study is not None else (),
        published=tuple(_published(ref, live, base) for ref in published),
        refusal=refusal,
        problem=problem,
    )


def _row(known: KnownRun, base: str) -> RunRow:
    study = study_of(known.folder) if known.state == "done" else None
    return RunRow(_status(known, base), finding_of(study) if study is not None else None)


def _status(known: KnownRun, base: str) -> RunStatus:
    run = known.run if known.state != "starting" else None
    updated_at = run.updated_at if run is not None else known.since
    return RunStatus(
        name=known.name,
        href=f"{base}/optimise/{known.name}",
        state=known.state,
        source=known.run.source if known.run is not None else "",
        started_at=run.started_at if run is not None else known.since,
        updated_at=updated_at,
        step=run.step if run is not None else "",
        share=run.share if run is not None else 0.0,
        seconds_left=run.seconds_left if run is not None and known.state == "running" else None,
        is_silent=known.is_active and _age_s(updated_at) > SILENT_AFTER_S,
        error=known.error,
    )


def _is_active(status: RunStatus) -> bool:
    return status.state in {"starting", "running"}


def _age_s(moment: str) -> float:
    try:
        return time.time() - datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0


def _allowed(known: KnownRun) -> float | None:
    """Return what a version may lose, as the command line says it; None when it says nothing."""
    try:
        words = shlex.split(known.command)
    except ValueError:
        return None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option == "--allowed-loss":
            try:
                return float(value or after)
            except ValueError:
                return None
    return None


def _published(ref: str, live: Sequence[LiveVersion], base: str) -> PublishedVersion:
    serves = any(version.ref == ref and version.task == Task.CLASSIFICATION for version in live)
    return PublishedVersion(ref, page_of(ref, base), f"{base}/playground/classify" if serves else "")
