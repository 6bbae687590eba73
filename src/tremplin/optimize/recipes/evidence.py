"""What is measured of one version of a study: quality against the reference, and size.

Speed is measured for all versions together afterwards (``optimize/race.py``): only figures of one race compare.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
    loss_from_counts,
    loss_metric,
    paired_loss,
    paired_metric_loss,
    slice_losses,
)
from tremplin.optimize.head.report import Answers, evidence_of, metrics_of
from tremplin.optimize.quality import batch_dependence, embedding_metrics
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.finish import Finished, finish_classifier, opened
from tremplin.optimize.recipes.search_set import NDCG, SearchSet, ndcg_at_10
from tremplin.optimize.recipes.stage import Stage
from tremplin.optimize.run_graph import run_alone, run_rows
from tremplin.registry.files import write_atomically
from tremplin.registry.passport import Metric, mean_metric, share_metric
from tremplin.serve.engine import Engine, pad
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


class Examiner(Protocol):
    """Finishes the versions of a study and judges them against one reference: the first it is shown."""

    @property
    def quality(self) -> str:
        """The metric that versions are ordered by; higher is better."""
        ...

    def finish(self, stage: Stage, path: Path) -> Finished:
        """Write a stage's graph as it is published."""
        ...

    def examine(self, finished: Finished, stage: Stage) -> Evidence:
        """Return the evidence of a version; the first one becomes the reference and has no verdict."""
        ...


class ClassifierExaminer:
    """Judges classifiers on the corpus's test texts."""

    quality = "accuracy"

    def __init__(
        self, corpus: Corpus, gate: Gate, *, target_accuracy: float, threads: int, seed: int,
        flip_rows: int = FLIP_ROWS,
    ) -> None:  # fmt: skip
        self._corpus, self._gate, self._target_accuracy = corpus, gate, target_accuracy
        self._threads, self._seed, self._flip_rows = threads, seed, flip_rows
        self._targets = corpus.test.targets(corpus.labels)
        self._reference: Answered | None = None

    def finish(self, stage: Stage, path: Path) -> Finished:
        """Fold the temperature into the head and choose the threshold, on validation texts."""
        return finish_classifier(
            stage, self._corpus, path, threads=self._threads, target_accuracy=self._target_accuracy
        )

    def examine(self, finished: Finished, stage: Stage) -> Evidence:
        """Return accuracy, calibration and the rest, and what was lost against the reference."""
        answered = self._answers(finished, stage)
        evidence = self._evidence(finished, stage, answered)
        if self._reference is None:
            self._reference = answered
        return evidence

    def _answers(self, finished: Finished, stage: Stage) -> Answered:
        tokenizer = TextTokenizer(stage.tokenizer, finished.interface)
        with opened(finished.graph, stage, self._threads) as engine:
            rows = tokenizer.encode(self._corpus.test.texts).ids
            probabilities = np.stack(run_rows(engine, rows, "probabilities"))
            outside = np.zeros(0, np.float32)
            if self._corpus.out_of_scope:
                far = tokenizer.encode(self._corpus.out_of_scope).ids
                outside = np.stack(run_rows(engine, far, "probabilities")).max(axis=1)
            flips, flips_of = _flips(engine, rows[: self._flip_rows])
            dependence = batch_dependence(engine, rows, "probabilities")
        return Answered(probabilities, outside, np.array([len(row) for row in rows]), flips, flips_of, dependence)

    def _evidence(self, finished: Finished, stage: Stage, answered: Answered) -> Evidence:
        corpus, interface = self._corpus, finished.interface
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
        before, after = self._reference.probabilities.argmax(axis=1), answers.predicted
        loss = paired_loss(before == self._targets, after == self._targets)
        classes = class_losses(self._targets, before, after, corpus.labels)
        masks: dict[str, NDArray[np.bool_]] = dict(length_slices(self._reference.tokens))
        if corpus.test.langs is not None:
            masks |= language_slices(corpus.test.langs)
        slices = slice_losses(before == self._targets, after == self._targets, masks)
        agreement = share_metric("label_agreement", int((before == after).sum()), len(after))
        return Evidence(
            size,
            finished.temperature,
            (loss_metric(loss), agreement, *metrics),
            self._gate.decide(loss, classes, slices),
            classes,
            slices,
            report,
        )


class EncoderExaminer:
    """Judges encoders by how near their vectors are to the reference's, and by search where there are queries."""

    def __init__(self, corpus: Corpus, gate: Gate, search: SearchSet | None, *, threads: int, seed: int) -> None:
        self._corpus, self._gate, self._search = corpus, gate, search
        self._threads, self._seed = threads, seed
        self._reference: tuple[NDArray[np.float32], NDArray[np.float64] | None] | None = None

    @property
    def quality(self) -> str:
        """nDCG@10 where there are queries, the mean cosine with the reference where there are none."""
        return NDCG if self._search is not None else "cosine_mean"

    def finish(self, stage: Stage, path: Path) -> Finished:
        """Take the graph as it is: an encoder has nothing to calibrate."""
        shutil.copyfile(stage.graph, path)
        return Finished(path, stage.interface, 1.0)

    def examine(self, finished: Finished, stage: Stage) -> Evidence:
        """Return the cosines with the reference, whether search agrees with it, and nDCG@10."""
        tokenizer = TextTokenizer(stage.tokenizer, finished.interface)
        scores: NDArray[np.float64] | None = None
        with opened(finished.graph, stage, self._threads) as engine:

            def embed(texts: Sequence[str]) -> NDArray[np.float32]:
                return np.stack(run_rows(engine, tokenizer.encode(texts).ids, "embedding"))

            rows = tokenizer.encode(self._corpus.test.texts).ids
            vectors = np.stack(run_rows(engine, rows, "embedding"))
            dependence = batch_dependence(engine, rows, "embedding")
            if self._search is not None:
                scores = ndcg_at_10(
                    embed(self._search.queries), embed(self._search.passages), self._search.relevant
                )
        size = finished.graph.stat().st_size + stage.tokenizer.stat().st_size
        metrics = [dependence]
        if scores is not None:
            metrics.insert(0, mean_metric(NDCG, scores.tolist()))
        if self._reference is None:
            self._reference = vectors, scores
            own = () if scores is not None else (mean_metric("cosine_mean", [1.0] * len(vectors)),)
            return Evidence(size, 1.0, (*own, *metrics))
        theirs, their_scores = self._reference
        half = len(vectors) // 2
        near = embedding_metrics(theirs[half:], vectors[half:], theirs[:half], vectors[:half])
        if scores is None or their_scores is None:
            agreement = next(metric for metric in near if metric.name == "retrieval_agreement")
            count = round(agreement.value * agreement.n)
            loss = loss_from_counts(agreement.n - count, 0, agreement.n)
        else:
            loss = paired_metric_loss(their_scores, scores, seed=self._seed)
        name = "retrieval_loss_points" if scores is None else "ndcg_loss_points"
        return Evidence(size, 1.0, (loss_metric(loss, name), *near, *metrics), self._gate.decide(loss))


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


_EVIDENCE = TypeAdapter(Evidence)
