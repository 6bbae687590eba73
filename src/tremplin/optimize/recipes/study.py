"""A study: several recipes on one corpus, judged against one reference, raced side by side, compared.

    <run>/stages/      what every step made (stage.py)
    <run>/versions/    <recipe>/model.onnx and evidence.json, finished and judged
    <run>/study.json   the whole, for reports

A study that is stopped goes on where it was: stages and evidence that are there are not made again.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tremplin.errors import BadInput, TremplinError
from tremplin.machine import read_machine
from tremplin.optimize.front import Objective, front
from tremplin.optimize.gate import Gate
from tremplin.optimize.measure import Effort, measure_speed
from tremplin.optimize.passes.cascade import Cascade
from tremplin.optimize.race import Result, Runner, race
from tremplin.optimize.recipes.evidence import (
    FLIP_ROWS,
    ClassifierExaminer,
    Evidence,
    Examiner,
    keep_evidence,
    load_evidence,
)
from tremplin.optimize.recipes.finish import Finished, answers_of
from tremplin.optimize.recipes.recipe import Recipe
from tremplin.optimize.recipes.runner import run_recipe
from tremplin.optimize.recipes.stage import Stage, stage_key
from tremplin.optimize.recipes.steps import Workshop
from tremplin.progress import Progress, silent
from tremplin.registry.files import write_atomically
from tremplin.registry.manifest import MODEL_FILE
from tremplin.serve.engines.catalogue import EngineName, EngineSpec

OBJECTIVES = (
    Objective("quality", higher_is_better=True),
    Objective("p50_ms"),
    Objective("rate_per_s", higher_is_better=True),
    Objective("memory_bytes"),
    Objective("size_bytes"),
)
RACE_TEXTS = 512
MEMORY = Effort(((1, 16), (4, 16), (16, 16), (32, 16)), rounds=1, seconds_per_round=0.02, latency_runs=10)
REFERENCE = "reference"
SOFTWARE = ("torch", "onnxruntime", "onnx", "numpy", "tokenizers")


@dataclass(frozen=True)
class StudyOptions:
    """How versions are judged and raced."""

    allowed_points: float = 0.5
    class_tolerance_points: float = 10.0
    """What one class may lose before it counts as broken, when that is proven."""
    target_accuracy: float = 0.95
    flip_rows: int = FLIP_ROWS
    """Test texts answered alone and in a batch, to count answers that change."""
    race_threads: int = 1
    race_rounds: int = 5
    race_seconds: float = 0.5


@dataclass(frozen=True)
class CascadeRecipe:
    """Two recipes of the study joined: the first answers when it is sure, else the second."""

    name: str
    first: str
    then: str
    allowed_points: float = 0.1
    """What the joined one may lose against the second on validation texts, on average."""
    escalated: float = 0.2
    """Share of validation texts that go on at least: texts the task has no label for are unlike those
    it is chosen on, and only doubt sends them on."""


@dataclass(frozen=True)
class Entry:
    """One version of a study."""

    name: str
    steps: tuple[str, ...]
    recipe: str
    """As YAML."""
    graph: Path
    stage: Stage
    finished: Finished
    evidence: Evidence
    speed: Result | None = None
    on_front: bool = False
    quality: str = "accuracy"
    """The metric it is ordered by."""
    memory_bytes: int = 0
    """Peak resident memory of a process that loads it and runs a batch of 32."""
    facts: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return what the front is drawn over."""
        if self.speed is None:
            raise ValueError("an entry that was not raced has no figures; this is a bug")
        quality = self.evidence.metric(self.quality)
        return {
            "quality": quality.value if quality else float("nan"),
            "p50_ms": self.speed.p50_ms,
            "rate_per_s": self.speed.rate_per_s,
            "memory_bytes": float(self.memory_bytes),
            "size_bytes": float(self.evidence.size_bytes),
        }


@dataclass(frozen=True)
class Failure:
    """A recipe that could not be worked, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Study:
    """What came out."""

    entries: tuple[Entry, ...]
    """The reference first."""
    failures: tuple[Failure, ...]

    @property
    def reference(self) -> Entry:
        """What the others are compared with."""
        return self.entries[0]

    def entry(self, name: str) -> Entry:
        """Return the version a recipe made; raises BadInput."""
        found = next((entry for entry in self.entries if entry.name == name), None)
        if found is None:
            raise BadInput(f"The study has no version {name!r}; it has {', '.join(e.name for e in self.entries)}.")
        return found


def run_study(
    recipes: Sequence[Recipe],
    start: Stage,
    folder: Path,
    workshop: Workshop,
    options: StudyOptions,
    *,
    examiner: Examiner | None = None,
    cascades: Sequence[CascadeRecipe] = (),
    progress: Progress = silent,
    wants_more: Callable[[Recipe], bool] = lambda _: True,
) -> Study:
    """Work all recipes, judge what they made against the first teacher, race them and draw the front.

    ``examiner`` judges classifiers on the corpus's test texts when none is given. ``wants_more`` is asked before
    each recipe; a search says no when its time is over.
    A recipe that fails is reported and the others go on; when the very first step fails there is nothing to
    compare with and its error is raised.
    """
    stages = folder / "stages"
    made: list[tuple[Recipe, Stage]] = []
    failures: list[Failure] = []
    for number, recipe in enumerate(recipes):
        if not wants_more(recipe):
            break
        within = _slice(progress, number, len(recipes), 0.8)
        try:
            made.append((recipe, run_recipe(recipe, start, stages, replace(workshop, progress=within))))
        except TremplinError as error:
            if not made:
                raise
            failures.append(Failure(recipe.name, str(error)))
    judge = _Judge(folder, workshop, options, examiner)
    teacher = made[0][1].teacher
    if teacher is None:
        raise BadInput(
            "The first recipe has no step that makes a teacher: begin it with fine-tune, head or few-shot."
        )
    entries = [judge.entry(REFERENCE, "", teacher)]
    for number, (recipe, stage) in enumerate(made):
        progress(f"judge {recipe.name}", 0.8 + 0.1 * number / len(made))
        entries.append(judge.entry(recipe.name, recipe.as_yaml(), stage))
    for cascade in cascades:
        entries.append(judge.cascade(cascade, entries))
    progress("race", 0.92)
    study = Study(tuple(_raced(entries, workshop, options)), tuple(failures))
    document = as_json(study) | _circumstances(workshop, options)
    write_atomically(folder / "study.json", json.dumps(document, ensure_ascii=False, indent=1).encode())
    return study


def classifier_examiner(workshop: Workshop, options: StudyOptions) -> Examiner:
    """Return what judges classifiers on the test texts of the workshop's corpus."""
    gate = Gate(options.allowed_points, class_tolerance_points=options.class_tolerance_points)
    return ClassifierExaminer(
        workshop.corpus,
        gate,
        target_accuracy=options.target_accuracy,
        flip_rows=options.flip_rows,
        threads=workshop.threads,
        seed=workshop.seed,
    )


class _Judge:
    """Finishes and judges stages, and keeps what it found."""

    def __init__(self, folder: Path, workshop: Workshop, options: StudyOptions, examiner: Examiner | None) -> None:
        self._folder, self._workshop = folder / "versions", workshop
        self._examiner = examiner or classifier_examiner(workshop, options)
        self._options_key = repr(replace(options, race_threads=1, race_rounds=1, race_seconds=1.0))
        self._reference_key = ""

    def entry(self, name: str, recipe: str, stage: Stage) -> Entry:
        """Finish and judge a stage."""
        return self._judged(name, recipe, stage, lambda path: self._examiner.finish(stage, path))

    def _judged(
        self, name: str, recipe: str, stage: Stage, finish: Callable[[Path], Finished], extra: str = "",
        facts: dict[str, Any] | None = None,
    ) -> Entry:  # fmt: skip
        key = stage_key(stage.key, "judge", {"of": self._options_key + extra}, self._reference_key, 0)
        place = self._folder / key
        place.mkdir(parents=True, exist_ok=True)
        finished = finish(place / MODEL_FILE)
        is_reference = not self._reference_key
        evidence = load_evidence(place / "evidence.json")
        # The reference's answers are needed in any case: the others are judged against them.
        if evidence is None or is_reference:
            evidence = self._examiner.examine(finished, stage)
            keep_evidence(place / "evidence.json", evidence)
        if is_reference:
            self._reference_key = stage.key
        facts = {key: value for record in stage.lineage for key, value in record.facts.items()} | (facts or {})
        return Entry(
            name, stage.steps[1:], recipe, finished.graph, stage, finished, evidence,
            quality=self._examiner.quality, facts=facts,
        )  # fmt: skip

    def cascade(self, wanted: CascadeRecipe, entries: Sequence[Entry]) -> Entry:
        """Join two entries at the threshold that validation texts allow."""
        first, then = (next(e for e in entries if e.name == name) for name in (wanted.first, wanted.then))
        corpus, threads = self._workshop.corpus, self._workshop.threads
        targets = corpus.validation.targets(corpus.labels)
        shown = [
            answers_of(e.graph, e.stage, corpus.validation.texts, "probabilities", threads=threads)
            for e in (first, then)
        ]
        threshold, share = choose_threshold(
            shown[0], shown[1], targets, wanted.allowed_points, escalated=wanted.escalated
        )
        narrow = first.stage.record.narrow_weights and then.stage.record.narrow_weights
        stage = replace(then.stage, record=replace(then.stage.record, narrow_weights=narrow))

        def finish(path: Path) -> Finished:
            Cascade(first.graph, threshold=threshold).call(then.graph, path)
            return replace(then.finished, graph=path)

        facts: dict[str, Any] = {"threshold": threshold, "escalated_validation": share}
        sure = answers_of(first.graph, first.stage, corpus.test.texts, "probabilities", threads=threads).max(
            axis=1
        )
        facts["escalated_test"] = float((sure < threshold).mean())
        if corpus.out_of_scope:
            far = answers_of(first.graph, first.stage, corpus.out_of_scope, "probabilities", threads=threads)
            facts["escalated_out_of_scope"] = float((far.max(axis=1) < threshold).mean())
        entry = self._judged(
            wanted.name, "", stage, finish, f"cascade {wanted} {first.stage.key} {threshold}", facts
        )
        steps = (*then.steps, f"cascade(first={wanted.first}, threshold={threshold:.3f})")
        return replace(entry, steps=steps)


def choose_threshold(
    first: np.ndarray, then: np.ndarray, targets: np.ndarray, allowed_points: float, *, escalated: float = 0.0
) -> tuple[float, float]:
    """Return the lowest threshold at which the joined answers lose at most so much, and the share that goes on.

    Probabilities are (n, labels), targets (n,). The loss is against the second alone; at 1 everything goes on. At
    least a share of ``escalated`` goes on.
    """
    sure = first.max(axis=1)
    first_right, then_right = first.argmax(axis=1) == targets, then.argmax(axis=1) == targets
    order = np.argsort(-sure, kind="stable")
    # With the k surest answered by the first: what is lost against the second, in rows.
    lost = np.concatenate([[0], np.cumsum(then_right[order].astype(int) - first_right[order].astype(int))])
    allowed = np.flatnonzero(lost <= allowed_points / 100 * len(sure))
    count = min(int(allowed.max()), int((1 - escalated) * len(sure)))
    threshold = float(sure[order[count - 1]]) if count else 1.0
    return min(1.0, max(threshold, 1e-6)), 1 - count / len(sure)


def _raced(entries: Sequence[Entry], workshop: Workshop, options: StudyOptions) -> list[Entry]:
    texts = workshop.corpus.test.texts
    random = np.random.default_rng([workshop.seed, 29])
    chosen = [texts[i] for i in random.permutation(len(texts))[:RACE_TEXTS]]
    runners = [
        Runner(
            entry.name,
            EngineSpec(
                EngineName.ONNX_RUNTIME, str(entry.graph), options.race_threads,
                narrow_weights=entry.stage.record.narrow_weights,
            ),
            entry.stage.tokenizer,
            entry.finished.interface,
        )
        for entry in entries
    ]  # fmt: skip
    results = race(runners, chosen, rounds=options.race_rounds, seconds=options.race_seconds, seed=workshop.seed)
    raced = [
        replace(entry, speed=result, memory_bytes=peak_memory(entry, runner.engine))
        for entry, runner, result in zip(entries, runners, results, strict=True)
    ]
    members = front([entry.figures() for entry in raced], OBJECTIVES)
    return [replace(entry, on_front=member) for entry, member in zip(raced, members, strict=True)]


def peak_memory(entry: Entry, engine: EngineSpec) -> int:
    """Return the peak resident memory, in bytes, of a process that loads a version and runs a batch of 32."""
    interface = entry.finished.interface
    speed = measure_speed(
        engine,
        machine=read_machine(),
        max_tokens=interface.max_tokens,
        vocab_size=interface.vocab_size,
        effort=MEMORY,
    )
    return speed.peak_memory_bytes


def as_json(study: Study) -> dict[str, Any]:
    """Return a study as JSON values, for reports and the console."""
    reference = study.reference
    return {
        "entries": [_entry_json(entry, reference) for entry in study.entries],
        "failures": [asdict(failure) for failure in study.failures],
    }


def _circumstances(workshop: Workshop, options: StudyOptions) -> dict[str, Any]:
    """Return what was studied, where and how, as JSON values."""
    corpus, machine = workshop.corpus, read_machine()
    return {
        "environment": {
            "machine": f"{machine.cpu}, {machine.cores} cores, {' '.join(machine.flags)}, {machine.system}",
            "threads": {"training": workshop.threads, "race": options.race_threads},
            "versions": {name: version(name) for name in SOFTWARE if find_spec(name) is not None},
            "python": platform.python_version(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "corpus": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "train": len(corpus.train),
            "validation": len(corpus.validation),
            "test": len(corpus.test),
            "unlabelled": len(corpus.unlabelled),
            "out_of_scope": len(corpus.out_of_scope),
            "labels": list(corpus.labels),
            "notes": list(corpus.notes),
        },
        "seed": workshop.seed,
        "allowed_points": options.allowed_points,
        "class_tolerance_points": options.class_tolerance_points,
    }


def _entry_json(entry: Entry, reference: Entry) -> dict[str, Any]:
    verdict, speed = entry.evidence.verdict, entry.speed
    ratios = speed.against(reference.speed) if speed is not None and reference.speed is not None else None
    return {
        "name": entry.name,
        "quality": entry.quality,
        "steps": list(entry.steps),
        "recipe": entry.recipe,
        "size_bytes": entry.evidence.size_bytes,
        "memory_bytes": entry.memory_bytes or None,
        "metrics": [asdict(metric) for metric in entry.evidence.metrics],
        "passes": None if verdict is None else verdict.passes,
        "reasons": [] if verdict is None else list(verdict.reasons),
        "loss": None if verdict is None else asdict(verdict.loss),
        "broken_classes": [] if verdict is None else [part.name for part in verdict.broken_classes],
        "broken_slices": [] if verdict is None else [part.name for part in verdict.broken_slices],
        "speed": None if speed is None else asdict(speed),
        "faster_alone": None if ratios is None else list(ratios[0]),
        "faster_batched": None if ratios is None else list(ratios[1]),
        "on_front": entry.on_front,
        "facts": entry.facts,
        "curves": [record.curve | {"step": record.step} for record in entry.stage.lineage if record.curve],
        "lineage": [
            {"step": record.step, "seconds": record.seconds, "facts": record.facts, "notes": list(record.notes)}
            for record in entry.stage.lineage
        ],
        "seconds": {record.step: record.seconds for record in entry.stage.lineage},
        "classes": [{"name": part.name, **asdict(part.loss)} for part in entry.evidence.classes],
        "slices": [{"name": part.name, **asdict(part.loss)} for part in entry.evidence.slices],
        "report": entry.evidence.report,
    }


def _slice(progress: Progress, number: int, count: int, until: float) -> Progress:
    def told(step: str, share: float) -> None:
        progress(step, until * (number + share) / count)

    return told
