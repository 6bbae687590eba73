"""What is measured of one version of a study: quality against the reference, and size.

Speed is measured for all versions together afterwards (``optimize/race.py``): only figures of one race compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from tremplin.optimize.gate import (
    Gate,
    PartLoss,
    Verdict,
    auroc,
    class_losses,
    language_slices,
    length_slices,
    loss_metric,
    paired_loss,
    slice_losses,
)
from tremplin.optimize.head.report import Answers, evidence_of, metrics_of
from tremplin.optimize.quality import batch_dependence, embedding_metrics
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.finish import Finished
from tremplin.optimize.recipes.stage import Stage
from tremplin.optimize.run_graph import run_alone, run_rows
from tremplin.registry.files import write_atomically
from tremplin.registry.passport import Metric, share_metric
from tremplin.serve.engine import Engine, pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

FLIP_ROWS = 1024
"""Test rows run alone and in a batch of FLIP_BATCH as they come, to count answers that change."""
FLIP_BATCH = 32


@dataclass(frozen=True)
class Evidence:
    """What was found of one version."""

    size_bytes: int
    temperature: float
    metrics: tuple[Metric, ...]
    verdict: Verdict | None = None
    """Against the reference; None for the reference itself."""
    classes: tuple[PartLoss, ...] = ()
    slices: tuple[PartLoss, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    """For the manifest: classes, confusion, calibration."""

    def metric(self, name: str) -> Metric | None:
        """Return a metric by name."""
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True)
class Answered:
    """What a version answered on the test texts, and how sure it was of those out of scope."""

    probabilities: NDArray[np.float32]
    out_of_scope: NDArray[np.float32]
    """(n,): the best probability of each text out of scope."""
    tokens: NDArray[np.int64]
    """(n,): tokens of each test text, as the version reads it."""
    flips: int
    flips_of: int
    dependence: Metric


class Examiner:
    """Judges the classifiers of a study against one reference on the test texts."""

    def __init__(self, corpus: Corpus, gate: Gate, *, threads: int, seed: int, flip_rows: int = FLIP_ROWS) -> None:
        self._corpus, self._gate = corpus, gate
        self._threads, self._seed, self._flip_rows = threads, seed, flip_rows
        self._targets = corpus.test.targets(corpus.labels)
        self._reference: Answered | None = None

    def answers(self, finished: Finished, stage: Stage) -> Answered:
        """Return what a version answers."""
        tokenizer = TextTokenizer(stage.tokenizer, finished.interface)
        engine = OnnxRuntimeEngine(
            finished.graph, threads=self._threads, narrow_weights=stage.record.narrow_weights
        )
        engine.load()
        try:
            rows = tokenizer.encode(self._corpus.test.texts).ids
            probabilities = np.stack(run_rows(engine, rows, "probabilities"))
            outside = np.zeros(0, np.float32)
            if self._corpus.out_of_scope:
                far = tokenizer.encode(self._corpus.out_of_scope).ids
                outside = np.stack(run_rows(engine, far, "probabilities")).max(axis=1)
            flips, flips_of = _flips(engine, rows[: self._flip_rows])
            dependence = batch_dependence(engine, rows, "probabilities")
        finally:
            engine.close()
        return Answered(probabilities, outside, np.array([len(row) for row in rows]), flips, flips_of, dependence)

    def set_reference(self, answered: Answered) -> None:
        """Judge the others against these answers."""
        self._reference = answered

    def evidence(self, finished: Finished, stage: Stage, answered: Answered) -> Evidence:
        """Return the evidence of a version from its answers."""
        corpus = self._corpus
        interface = finished.interface
        answers = Answers(
            answered.probabilities.astype(np.float64), self._targets, corpus.labels, interface.abstain_below or 0.0
        )
        metrics = [
            *metrics_of(answers, seed=self._seed),
            answered.dependence,
            share_metric("answers_flipped_by_batch", answered.flips, answered.flips_of),
        ]
        if len(answered.out_of_scope):
            metrics.append(auroc(answers.confidence, answered.out_of_scope))
        report = evidence_of(answers, corpus.test.langs, seed=self._seed)
        size = finished.graph.stat().st_size + stage.tokenizer.stat().st_size
        if self._reference is None:
            return Evidence(size, finished.temperature, tuple(metrics), report=report)
        before = self._reference.probabilities.argmax(axis=1)
        after = answers.predicted
        loss = paired_loss(before == self._targets, after == self._targets)
        classes = class_losses(self._targets, before, after, corpus.labels)
        masks: dict[str, NDArray[np.bool_]] = dict(length_slices(self._reference.tokens))
        if corpus.test.langs is not None:
            masks |= language_slices(corpus.test.langs)
        slices = slice_losses(before == self._targets, after == self._targets, masks)
        verdict = self._gate.decide(loss, classes, slices)
        agreement = share_metric("label_agreement", int((before == after).sum()), len(after))
        return Evidence(
            size,
            finished.temperature,
            (loss_metric(loss), agreement, *metrics),
            verdict,
            classes,
            slices,
            report,
        )


def encoder_evidence(
    engine: Engine, reference: Engine, rows: Sequence[Sequence[int]], reference_rows: Sequence[Sequence[int]]
) -> tuple[Metric, ...]:
    """Return how near an encoder's vectors are to the reference's, each reading the texts its own way."""
    mine, theirs = (
        np.stack(run_rows(one, ids, "embedding")) for one, ids in ((engine, rows), (reference, reference_rows))
    )
    half = len(mine) // 2
    near = embedding_metrics(theirs[half:], mine[half:], theirs[:half], mine[:half])
    return (*near, batch_dependence(engine, rows, "embedding"))


def _flips(engine: Engine, rows: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return how many rows get another label in a batch than alone, and of how many."""
    alone = np.stack(run_alone(engine, rows, "probabilities")).argmax(axis=1)
    together = np.concatenate(
        [
            engine.run(pad(rows[start : start + FLIP_BATCH]))["probabilities"].argmax(axis=1)
            for start in range(0, len(rows), FLIP_BATCH)
        ]
    )
    return int((alone != together).sum()), len(rows)


def keep_evidence(path: Path, evidence: Evidence) -> None:
    """Write evidence as JSON."""
    write_atomically(path, _EVIDENCE.dump_json(evidence, indent=1))


def load_evidence(path: Path) -> Evidence | None:
    """Return evidence that was kept, or None."""
    return _EVIDENCE.validate_json(path.read_bytes()) if path.is_file() else None


def as_rows(parts: Sequence[PartLoss]) -> list[Mapping[str, object]]:
    """Return losses by class or slice as JSON values."""
    return [{"name": part.name, **asdict(part.loss)} for part in parts]


_EVIDENCE = TypeAdapter(Evidence)
