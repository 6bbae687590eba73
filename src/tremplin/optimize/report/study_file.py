"""A run's ``study.json`` and ``run.json`` as the report reads them.

``recipes/study.py`` writes what the fields of StudyEntry without a default say; the others may be absent, and the
report then says that they were not recorded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tremplin.errors import BadInput
from tremplin.optimize.gate import Loss
from tremplin.optimize.race import Result
from tremplin.optimize.recipes.run_folder import STUDY_FILE, Run, RunFolder, RunState, list_runs
from tremplin.optimize.report.plots.curves import CurvePoint
from tremplin.registry.passport import Metric

Ratios = tuple[float, float, float]
"""Median, lowest and highest of the rounds' ratios."""


@dataclass(frozen=True)
class Part:
    """What one class or slice loses against the reference, as ``gate.Loss`` but with its name."""

    name: str
    points: float
    low: float
    high: float
    upper: float
    n: int
    lost: int
    gained: int


@dataclass(frozen=True)
class Curve:
    """How one training step went."""

    points: tuple[CurvePoint, ...]
    best: CurvePoint
    steps: int
    stopped_early: bool = False
    resumed_at: int = 0
    seconds: float = 0.0
    step: str = ""
    """The recipe's step that trained, as reports print it."""


@dataclass(frozen=True)
class StepRecord:
    """One step of a version's recipe: what it took and what it did."""

    step: str
    seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyEntry:
    """One version of the study."""

    name: str
    steps: tuple[str, ...]
    size_bytes: int
    metrics: tuple[Metric, ...]
    passes: bool | None
    """None for the reference."""
    reasons: tuple[str, ...]
    loss: Loss | None
    speed: Result | None
    faster_alone: Ratios | None
    faster_batched: Ratios | None
    on_front: bool
    quality: str = "accuracy"
    """The metric that versions are ordered by; higher is better."""
    recipe: str = ""
    """As YAML; empty for the reference and for versions joined of two."""
    facts: dict[str, Any] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """By step."""
    classes: tuple[Part, ...] = ()
    slices: tuple[Part, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    """``Evidence.report``: classes, confusion, confused, calibration."""
    memory_bytes: int | None = None
    published: str | None = None
    """The registry's ``model@version`` that was made of it."""
    broken_classes: tuple[str, ...] | None = None
    broken_slices: tuple[str, ...] | None = None
    lineage: tuple[StepRecord, ...] = ()
    """What it began with, then the steps with the facts of each; without it facts are told by their names."""

    @property
    def is_reference(self) -> bool:
        """Whether the others are judged against this one."""
        return self.passes is None

    @property
    def main_metric(self) -> Metric | None:
        """The metric that versions are ordered by."""
        return self.metric(self.quality)

    def metric(self, name: str) -> Metric | None:
        """Return a metric by name."""
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True)
class Failure:
    """A recipe that could not be worked."""

    name: str
    reason: str


@dataclass(frozen=True)
class Environment:
    """Where and with what the study was made."""

    machine: str | dict[str, Any] = ""
    """In words, or the fields of ``machine.Machine``."""
    threads: int | dict[str, int] | None = None
    """Of all work, or by kind of work: ``race`` is what speed was measured with."""
    versions: dict[str, str] = field(default_factory=dict)
    python: str = ""
    date: str = ""


@dataclass(frozen=True)
class CorpusFacts:
    """The texts, by what they were for."""

    name: str = ""
    sha256: str = ""
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    out_of_scope: int | None = None
    unlabelled: int | None = None
    labels: int | tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyFile:
    """A finished study."""

    entries: tuple[StudyEntry, ...]
    """The reference first."""
    failures: tuple[Failure, ...] = ()
    environment: Environment = Environment()
    corpus: CorpusFacts = CorpusFacts()
    seed: int | None = None
    allowed_points: float | None = None
    class_tolerance_points: float | None = None
    chosen: str | None = None
    """The version an objective picked."""
    choice: str | None = None
    """Why, in a sentence."""
    notes: tuple[str, ...] = ()
    name: str = "study"
    run: Run | None = None
    document: dict[str, Any] = field(default_factory=dict)
    """``study.json`` as it was read."""

    @property
    def reference(self) -> StudyEntry:
        """What the others are judged against."""
        return self.entries[0]

    def entry(self, name: str) -> StudyEntry:
        """Return a version by name; raises BadInput."""
        found = next((entry for entry in self.entries if entry.name == name), None)
        if found is None:
            known = ", ".join(entry.name for entry in self.entries)
            raise BadInput(f"The study {self.name!r} has no version {name!r}; it has {known}.")
        return found

    @property
    def command(self) -> str:
        """The command line that makes the study again; empty when it is not known."""
        return self.run.command if self.run is not None else ""


def read_study(run_folder: Path) -> StudyFile:
    """Return the study of a run; raises BadInput when there is none yet, or it cannot be read."""
    folder = RunFolder(run_folder.parent, run_folder.name)
    run = folder.read()
    try:
        document = json.loads((run_folder / STUDY_FILE).read_bytes())
        study = _STUDY.validate_python(document)
    except FileNotFoundError:
        raise BadInput(_not_there(folder, run)) from None
    except (ValueError, ValidationError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "not JSON"
        raise BadInput(
            f"{run_folder / STUDY_FILE} cannot be read ({where}). Run the study's command again: what is "
            "finished is not worked twice."
        ) from None
    if not study.entries:
        raise BadInput(f"{run_folder / STUDY_FILE} holds no version; run the study's command again.")
    return replace(study, name=run_folder.name, run=run, document=document)


def _not_there(folder: RunFolder, run: Run | None) -> str:
    if run is None:
        known = ", ".join(found.name for found in list_runs(folder.path.parent)[:10])
        said = f"; there are {known}" if known else ""
        return (
            f"There is no run {folder.name!r} in {folder.path.parent}{said}. "
            "`tremplin optimize --labelled` makes one."
        )
    if run.state is RunState.RUNNING:
        return (
            f"The run {run.name!r} is at {run.share:.0%} ({run.step}); its report can be written when it is done."
        )
    why = f": {run.error}" if run.error else ""
    return f"The run {run.name!r} has {run.state.value} before its end{why}. Go on with it: `{run.command}`."


_STUDY = TypeAdapter(StudyFile)
