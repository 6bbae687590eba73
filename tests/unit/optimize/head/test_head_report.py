"""The evidence of a head: counted right, within its intervals, and readable by the report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tremplin.optimize.head.report import Answers, _macro_f1, evidence_of, metrics_of
from tremplin.optimize.report.evidence import read_evidence


def answers(n=400, labels=4, seed=0, abstain_below=0.5):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(labels, 0.3), size=n)
    targets = np.array([random.choice(labels, p=row) for row in probabilities])
    return Answers(probabilities, targets, tuple("abcdefgh"[:labels]), abstain_below)


def test_metrics_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    made = answers()
    found = {metric.name: metric for metric in metrics_of(made, seed=0)}
    assert found["accuracy"].value == metrics.accuracy_score(made.targets, made.predicted)
    expected = metrics.f1_score(made.targets, made.predicted, average="macro")
    assert found["macro_f1"].value == pytest.approx(expected)
    answered = made.confidence >= 0.5
    assert found["coverage"].value == answered.mean()
    assert found["accuracy_when_answered"].value == (made.predicted == made.targets)[answered].mean()
    for metric in found.values():
        assert metric.low <= metric.value <= metric.high


def test_tables_equal_scikit_learn_and_are_read_back():
    metrics = pytest.importorskip("sklearn.metrics")
    made = answers()
    report = json.loads(json.dumps(evidence_of(made, None, seed=0)))
    assert report["confusion"]["matrix"] == metrics.confusion_matrix(made.targets, made.predicted).tolist()
    columns = metrics.precision_recall_fscore_support(made.targets, made.predicted)
    for i, row in enumerate(report["classes"]):
        expected = [column[i] for column in columns]
        assert [row[key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(expected)
    evidence = read_evidence(report)
    assert evidence.unread == ()
    assert evidence.calibration is not None
    assert sum(found.count for found in evidence.calibration.bins) == 400
    assert evidence.confusion is not None
    assert len(evidence.classes) == 4
    assert "languages" not in report


def test_languages_have_a_slice_each():
    made = answers()
    report = evidence_of(made, ["en", "fr"] * 200, seed=0)
    slices = report["languages"]
    assert isinstance(slices, list)
    assert [row["lang"] for row in slices] == ["en", "fr"]
    assert [row["n"] for row in slices] == [200, 200]
    assert np.mean([row["accuracy"] for row in slices]) == pytest.approx(made.is_right.mean())


def test_pairs_most_often_confused_come_first():
    probabilities = np.eye(3)[[1, 1, 1, 2, 0, 1]]
    made = Answers(probabilities, np.array([0, 0, 0, 0, 0, 2]), ("x", "y", "z"), 0.0)
    assert evidence_of(made, None, seed=0)["confused"] == [
        {"label": "x", "predicted": "y", "count": 3},
        {"label": "x", "predicted": "z", "count": 1},
        {"label": "z", "predicted": "y", "count": 1},
    ]


def test_a_label_nobody_has_is_0_in_the_table_and_not_in_the_mean():
    probabilities = np.eye(3)[[0, 1, 0, 1]]
    made = Answers(probabilities, np.array([0, 1, 0, 1]), ("x", "y", "never"), 0.0)
    f1 = next(metric for metric in metrics_of(made, seed=0) if metric.name == "macro_f1")
    assert f1.value == 1.0
    classes = evidence_of(made, None, seed=0)["classes"]
    assert isinstance(classes, list)
    assert classes[2] == {"label": "never", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_abstaining_on_all_leaves_one_metric_out():
    names = [metric.name for metric in metrics_of(answers(abstain_below=1.1), seed=0)]
    assert "accuracy_when_answered" not in names


def test_the_seed_decides_the_intervals():
    assert metrics_of(answers(), seed=3) == metrics_of(answers(), seed=3)


def test_macro_f1_interval_covers_the_truth():
    # Nominal 95 %; of 100 intervals fewer than 88 cover once in a thousand sets.
    truth = _macro_f1(answers(n=20_000), 0).value
    found = [_macro_f1(answers(n=300, seed=seed), seed) for seed in range(1, 101)]
    assert sum(metric.low <= truth <= metric.high for metric in found) >= 88
