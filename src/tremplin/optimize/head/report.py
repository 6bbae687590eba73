"""What a head is worth on rows it never saw: metrics with intervals, and the tables a report draws.

Everything is counted from one (labels, labels) table; bootstrap intervals draw rows again by their seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tremplin.optimize.head.calibrate import calibration_floor, expected_calibration_error, reliability_bins
from tremplin.optimize.head.descent import Floats, Targets
from tremplin.registry.passport import Metric, share_metric

DRAWS = 1_000
"""Bootstrap samples; the ends of a 95 % interval then move by about a tenth of its width."""
MAX_MATRIX_LABELS = 200
"""A larger confusion matrix would fill the manifest; the pairs most often confused are always listed."""
CONFUSED_PAIRS = 20
MAX_LANGS = 50


@dataclass(frozen=True)
class Answers:
    """What a classifier said of labelled rows."""

    probabilities: Floats
    """(n, labels), calibrated."""
    targets: Targets
    """(n,)."""
    labels: tuple[str, ...]
    abstain_below: float

    @property
    def predicted(self) -> Targets:
        """(n,): the most probable label of each row."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def confidence(self) -> Floats:
        """(n,): its probability."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """(n,)."""
        return np.asarray(self.predicted == self.targets)

    @property
    def is_answered(self) -> NDArray[np.bool_]:
        """(n,): False where the classifier abstains."""
        return self.confidence >= self.abstain_below

    def of(self, rows: NDArray[np.bool_]) -> Answers:
        """Return the answers of some rows."""
        return Answers(self.probabilities[rows], self.targets[rows], self.labels, self.abstain_below)


def metrics_of(answers: Answers, *, seed: int) -> tuple[Metric, ...]:
    """Return accuracy, macro F1, calibration error, coverage and the accuracy among answered rows.

    The last one is left out when the classifier abstains on every row. Shares have Wilson intervals, the
    other two percentile bootstrap intervals (Efron & Tibshirani 1993).
    """
    n, answered = len(answers.targets), answers.is_answered
    metrics = [
        share_metric("accuracy", int(answers.is_right.sum()), n),
        _macro_f1(answers, seed),
        _calibration_error(answers, seed),
        share_metric("coverage", int(answered.sum()), n),
    ]
    if answered.any():
        right = int(answers.is_right[answered].sum())
        metrics.append(share_metric("accuracy_when_answered", right, int(answered.sum())))
    return tuple(metrics)


def evidence_of(answers: Answers, langs: Sequence[str] | None, *, seed: int) -> dict[str, object]:
    """Return the tables kept in ``manifest.report``, as JSON values.

    ``classes``, ``confusion`` and ``calibration`` as ``optimize/report/evidence.py`` reads them, ``confused``
    (the label pairs most often taken for each other) and, with ``langs`` (n,), ``languages``.
    """
    confusion = confusion_matrix(answers.targets, answers.predicted, len(answers.labels))
    report: dict[str, object] = {
        "classes": _classes(confusion, answers.labels),
        "calibration": {
            "ece": expected_calibration_error(answers.confidence, answers.is_right),
            "ece_if_perfect": calibration_floor(answers.confidence, seed=seed),
            "bins": [asdict(found) for found in reliability_bins(answers.confidence, answers.is_right)],
        },
        "confused": _confused(confusion, answers.labels),
    }
    if len(answers.labels) <= MAX_MATRIX_LABELS:
        report["confusion"] = {"labels": list(answers.labels), "matrix": confusion.tolist()}
    if langs is not None and len(set(langs)) <= MAX_LANGS:
        report["languages"] = _languages(answers, langs)
    return report


def confusion_matrix(targets: Targets, predicted: Targets, n_labels: int) -> NDArray[np.int64]:
    """Return counts (labels, labels): a row per true label, a column per predicted one."""
    counts = np.bincount(targets * n_labels + predicted, minlength=n_labels * n_labels)
    return counts.reshape(n_labels, n_labels).astype(np.int64)


def f1_scores(right: Floats, predicted: Floats, support: Floats) -> Floats:
    """Return F1 by label from how often it was right, predicted and true, along the last axis.

    NaN for a label that is neither true nor predicted anywhere.
    """
    total = predicted + support
    scores: Floats = np.divide(2 * right, total, out=np.full(total.shape, np.nan), where=total > 0)
    return scores


def _macro_f1(answers: Answers, seed: int) -> Metric:
    """Return the mean F1 over the labels that are true or predicted somewhere."""
    n, n_labels = len(answers.targets), len(answers.labels)
    confusion = confusion_matrix(answers.targets, answers.predicted, n_labels).astype(np.float64)
    value = float(np.nanmean(f1_scores(np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1))))
    # Drawing n rows again is drawing n times from the cells of the matrix.
    true, guess = np.nonzero(confusion)
    random = np.random.default_rng([seed, 2])
    drawn = random.multinomial(n, confusion[true, guess] / n, size=DRAWS).astype(np.float64)  # (draws, cells)
    cell = np.eye(n_labels)
    right = drawn @ (cell[true] * (true == guess)[:, None])
    scores = np.nanmean(f1_scores(right, drawn @ cell[guess], drawn @ cell[true]), axis=1)
    return _with_interval("macro_f1", value, scores, n)


def _calibration_error(answers: Answers, seed: int) -> Metric:
    """Return the expected calibration error.

    Few rows alone make it larger than it is, in the value and more so in each bootstrap sample, so the
    interval leans to the pessimistic side.
    """
    confidence, is_right = answers.confidence, answers.is_right
    random = np.random.default_rng([seed, 3])
    n = len(confidence)
    samples = (random.integers(0, n, n) for _ in range(DRAWS))
    scores = [expected_calibration_error(confidence[rows], is_right[rows]) for rows in samples]
    value = expected_calibration_error(confidence, is_right)
    return _with_interval("expected_calibration_error", value, np.array(scores), n)


def _with_interval(name: str, value: float, scores: Floats, n: int) -> Metric:
    low, high = np.quantile(scores, [0.025, 0.975])
    return Metric(name, value, min(float(low), value), max(float(high), value), n)


def _classes(confusion: NDArray[np.int64], labels: Sequence[str]) -> list[dict[str, object]]:
    """Return precision, recall, F1 and support by label; 0 where nothing was predicted or true."""
    right = np.diag(confusion).astype(np.float64)
    predicted, support = confusion.sum(axis=0).astype(np.float64), confusion.sum(axis=1).astype(np.float64)
    f1 = np.nan_to_num(f1_scores(right, predicted, support))
    return [
        {
            "label": label,
            "precision": float(right[i] / max(predicted[i], 1)),
            "recall": float(right[i] / max(support[i], 1)),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, label in enumerate(labels)
    ]


def _confused(confusion: NDArray[np.int64], labels: Sequence[str]) -> list[dict[str, object]]:
    """Return the (true, predicted) pairs most often confused, most often first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]
    pairs = ((int(i) // len(labels), int(i) % len(labels)) for i in order)
    return [
        {"label": labels[i], "predicted": labels[j], "count": int(wrong[i, j])} for i, j in pairs if wrong[i, j]
    ]


def _languages(answers: Answers, langs: Sequence[str]) -> list[dict[str, object]]:
    """Return accuracy with its interval, macro F1 and coverage of each language."""
    found: list[dict[str, object]] = []
    for lang, rows in _by_lang(langs):
        part = answers.of(rows)
        accuracy = share_metric("accuracy", int(part.is_right.sum()), len(part.targets))
        confusion = confusion_matrix(part.targets, part.predicted, len(part.labels)).astype(np.float64)
        f1 = f1_scores(np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1))
        found.append(
            {
                "lang": lang,
                "n": accuracy.n,
                "accuracy": accuracy.value,
                "low": accuracy.low,
                "high": accuracy.high,
                "macro_f1": float(np.nanmean(f1)),
                "coverage": float(part.is_answered.mean()),
            }
        )
    return found


def _by_lang(langs: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    column = np.array(langs)
    for lang in sorted(set(langs)):
        yield lang, column == lang
