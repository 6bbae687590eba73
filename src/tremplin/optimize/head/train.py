"""From labelled text to a calibrated classifier in one graph, measured on rows it never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import TrainingRefused
from tremplin.optimize.head.abstain import Threshold, abstain_threshold
from tremplin.optimize.head.attach import attach_head
from tremplin.optimize.head.calibrate import TEMPERATURES
from tremplin.optimize.head.choose import Choice, choose_l2
from tremplin.optimize.head.dataset import LabelledTexts
from tremplin.optimize.head.descent import Targets
from tremplin.optimize.head.logistic import ClassWeight, Logistic, fit, softmax
from tremplin.optimize.head.parity import check_head_parity, probe_rows
from tremplin.optimize.head.report import Answers, evidence_of, metrics_of
from tremplin.optimize.head.rows import listed
from tremplin.optimize.head.split import Rows, Split, fold_numbers, split, text_groups
from tremplin.progress import Progress
from tremplin.registry.passport import Metric

Features = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Features]
Tokenize = Callable[[Sequence[str]], Mapping[str, NDArray[np.int64]]]

ENCODE_ROWS = 256
"""Texts handed to the encoder at a time, so that progress can be told."""


@dataclass(frozen=True)
class TrainedHead:
    """A classifier and what was measured of it."""

    graph: Path
    """Encoder and head in one ONNX file."""
    labels: tuple[str, ...]
    temperature: float
    abstain_below: float
    metrics: tuple[Metric, ...]
    """On the test rows: ``report.metrics_of``."""
    report: dict[str, object]
    """For ``manifest.report``: ``report.evidence_of``, and how the head was made under ``training``."""
    notes: tuple[str, ...]
    data_sha256: str
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went, by step."""


def train_head(
    data: LabelledTexts,
    encode: Encode,
    encoder_onnx: Path,
    destination: Path,
    *,
    tokenize: Tokenize,
    test: LabelledTexts | None = None,
    class_weight: ClassWeight | None = None,
    seed: int = 0,
    target_accuracy: float = 0.95,
    progress: Progress | None = None,
) -> TrainedHead:
    """Train a head on the frozen encoder's features, attach it, check the graph and measure it.

    ``encode`` gives (n, dim) float32 features of texts, ``tokenize`` the inputs of ``encoder_onnx`` for a few
    texts: the written graph is run on them. 15 % of the rows are held out to measure on, or all of ``test``.
    The head learns from all other rows; its penalty, temperature and threshold come from out-of-fold answers
    on them, so that no validation row is lost to the fit and every row speaks for the calibration.

    Raises TrainingRefused for data that cannot train a head, PassFailed when the graph cannot be made or
    does not answer as the head does.
    """
    steps = _Steps(progress)
    labels = data.label_names
    parts = split(data, test=test, seed=seed)
    held_out = _held_out(data, parts, test)
    with steps.step("encode"):
        fitting = _take(data.texts, parts.fitting)
        features = _encoded(encode, [*fitting, *held_out.texts], steps)
        known, unseen = features[: len(fitting)], features[len(fitting) :]
    targets = data.targets()[parts.fitting]
    with steps.step("choose"):
        folds = fold_numbers(text_groups(fitting), targets, seed=seed)
        choice = choose_l2(known, targets, len(labels), folds, class_weight=class_weight, progress=steps.advance)
    with steps.step("fit"):
        head = fit(known, targets, len(labels), l2=choice.l2, class_weight=class_weight)
        threshold = _threshold(choice, targets, target_accuracy)
    with steps.step("attach"):
        attach_head(encoder_onnx, head, choice.temperature, labels, destination)
        rows = probe_rows(len(held_out))
        feeds = tokenize(_take(held_out.texts, rows))
        check_head_parity(destination, head, choice.temperature, feeds, unseen[rows])
    with steps.step("measure"):
        probabilities = head.probabilities(unseen, choice.temperature)
        answers = Answers(probabilities, held_out.targets(labels), labels, threshold.value)
        metrics = metrics_of(answers, seed=seed)
        report = evidence_of(answers, held_out.langs, seed=seed)
    report["training"] = _training(data, held_out, len(fitting), choice, threshold)
    return TrainedHead(
        graph=destination,
        labels=labels,
        temperature=choice.temperature,
        abstain_below=threshold.value,
        metrics=metrics,
        report=report,
        notes=(
            *data.notes,
            *(test.notes if test else ()),
            *parts.notes,
            *_notes(head, choice, threshold, target_accuracy),
            *_broken_promise(metrics, threshold, target_accuracy),
        ),
        data_sha256=data.sha256,
        seed=seed,
        seconds=steps.seconds,
    )


class _Steps:
    """Names the steps to whoever watches, and times them."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._name = ""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run one step."""
        self._name = name
        self.advance(0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.advance(1.0)

    def advance(self, fraction: float) -> None:
        """Tell how far the step is, from 0 to 1."""
        if self._progress is not None:
            self._progress(self._name, fraction)


def _held_out(data: LabelledTexts, parts: Split, test: LabelledTexts | None) -> LabelledTexts:
    """Return the rows to measure on; refuses test labels that training does not know."""
    if test is None:
        return data.rows(parts.test)
    unknown = [repr(name) for name in test.label_names if name not in data.label_names]
    if unknown:
        raise TrainingRefused(
            f"{test.source}: {len(unknown)} labels are not in {data.source}: {listed(unknown)}. "
            "Correct them, or add training texts for them."
        )
    return test


def _take(texts: Sequence[str], rows: Rows) -> list[str]:
    return [texts[row] for row in rows]


def _encoded(encode: Encode, texts: Sequence[str], steps: _Steps) -> Features:
    """Return the features (n, dim) of the texts; refuses what is not finite."""
    parts = []
    for start in range(0, len(texts), ENCODE_ROWS):
        parts.append(np.asarray(encode(texts[start : start + ENCODE_ROWS]), np.float32))
        steps.advance(min(1.0, (start + ENCODE_ROWS) / len(texts)))
    features = np.concatenate(parts)
    spoiled = int((~np.isfinite(features).all(axis=1)).sum())
    if spoiled:
        raise TrainingRefused(
            f"The encoder gave numbers that are not finite for {spoiled} of {len(texts)} texts. "
            "Import it again and check its parity: `tremplin import`."
        )
    if not (features != features[0]).any():
        raise TrainingRefused("The encoder gave the same vector for every text: nothing can be learned from it.")
    return features


def _threshold(choice: Choice, targets: Targets, target_accuracy: float) -> Threshold:
    """Return the threshold below which the classifier abstains, from out-of-fold answers."""
    probabilities = softmax(choice.out_of_fold / choice.temperature)
    is_right = probabilities.argmax(axis=1) == targets
    return abstain_threshold(probabilities.max(axis=1), is_right, target=target_accuracy)


def _training(
    data: LabelledTexts, held_out: LabelledTexts, n_fitting: int, choice: Choice, threshold: Threshold
) -> dict[str, object]:
    """Return how the head was made, as JSON values."""
    return {
        "data": data.source,
        "rows_fitted": n_fitting,
        "measured_on": held_out.source,
        "rows_measured": len(held_out),
        "l2": choice.l2,
        "log_loss_by_penalty": {f"{penalty:g}": loss for penalty, loss in choice.log_losses.items()},
        "temperature": choice.temperature,
        "threshold": asdict(threshold),
    }


def _notes(head: Logistic, choice: Choice, threshold: Threshold, target_accuracy: float) -> list[str]:
    """Return what whoever reads the report should know of the fit."""
    notes = [head.note] if head.note else []
    if not 1.01 * TEMPERATURES[0] < choice.temperature < 0.99 * TEMPERATURES[1]:
        notes.append(
            f"The temperature went to its end, {choice.temperature:g}: out-of-fold answers are all right or "
            "all noise, and probabilities say little."
        )
    if not threshold.is_reached:
        notes.append(
            f"No threshold is proven to give an accuracy of {target_accuracy:g} among answered texts; the "
            f"best is proven for {threshold.accuracy_low:.3f} and answers {threshold.coverage:.0%}. "
            "More labelled texts help, or fewer labels."
        )
    return notes


def _broken_promise(metrics: Sequence[Metric], threshold: Threshold, target_accuracy: float) -> list[str]:
    """Return a note when the measured rows contradict what out-of-fold answers proved."""
    answered = next((metric for metric in metrics if metric.name == "accuracy_when_answered"), None)
    if answered is None or not threshold.is_reached or answered.high >= target_accuracy:
        return []
    return [
        f"Among answered test texts {answered.value:.3f} are right, fewer than the {target_accuracy:g} that held "
        "on training texts: the two differ. Train on texts like those the service gets."
    ]
