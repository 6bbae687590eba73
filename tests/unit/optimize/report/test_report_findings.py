from __future__ import annotations

from dataclasses import replace

import pytest
from report_samples import classifier_versions, embedding_versions, speed

from tremplin.machine import Machine
from tremplin.optimize.report.compare import (
    baseline_of,
    benches,
    chosen_of,
    comparable_metric,
    differences,
    is_more_than_noise,
    main_bench,
    speeds_of,
)
from tremplin.optimize.report.evidence import read_evidence
from tremplin.optimize.report.findings import headline, main_metric, metric_beside, metric_finding, remarks
from tremplin.optimize.report.verdict import Outcome, verdict_of
from tremplin.optimize.report.wording import read_as
from tremplin.registry.passport import Bound, Metric, Quality, share_metric


def test_headline_of_an_embedding_model() -> None:
    manifests, speeds = embedding_versions()
    assert headline(manifests, speeds).replace("\u00a0", " ") == (
        "2-int8 is 3.8 times smaller and 2.5 times faster than 1-fp32 "
        "and has a retrieval agreement of 97.1 % [95.2, 98.2] with 1-fp32."
    )


def test_headline_of_a_classifier() -> None:
    manifests, speeds = classifier_versions()
    assert headline(manifests, speeds).replace("\u00a0", " ") == (
        "2-int8 is 3.8 times smaller and 2.5 times faster than 1-fp32 "
        "and keeps 99.9 % of its accuracy (96.2 % [95.1, 97.1] against 96.3 %, a difference within noise)."
    )


def test_headline_of_one_version() -> None:
    manifests, speeds = classifier_versions()
    assert headline(manifests[:1], speeds).replace("\u00a0", " ") == (
        "1-fp32 takes 91.0 MB and answers one text of 16 tokens in 9.17 ms (p50); accuracy 96.3 % [95.2, 97.2]."
    )


def test_headline_without_speed_or_versions() -> None:
    manifests, _ = embedding_versions()
    said = headline(manifests, {})
    assert "faster" not in said
    assert "3.8 times smaller" in said
    assert "not measured on any machine" in " ".join(remarks(manifests, {}))
    assert headline([], {}) == "There is no version to report on."


def test_latency_whose_throughput_overlaps_is_called_the_same() -> None:
    manifests, speeds = embedding_versions()
    speeds[manifests[1].ref] = [replace(speed(1.02), p50_ms=8.0)]
    assert "about as fast as 1-fp32" in headline(manifests, speeds)


def test_the_chosen_version_is_the_fastest_within_its_bounds() -> None:
    manifests, speeds = classifier_versions()
    bench = main_bench(manifests, speeds)
    assert baseline_of(manifests).version == "1-fp32"
    assert chosen_of(manifests, bench).version == "2-int8"


def test_speeds_are_found_by_reference_or_version_and_compared_on_one_bench() -> None:
    manifests, speeds = embedding_versions()
    assert speeds_of(manifests[0], {"1-fp32": [speed()]})
    found = benches(manifests, speeds)
    assert [bench.threads for bench in found] == [2, 1]
    assert len(found[0].speeds) == 2
    other = Machine("x", "x86_64", 4, "affinity", 1, (), "Linux")
    apart = {manifests[0].ref: [speed()], manifests[1].ref: [speed(2, machine=other)]}
    assert len(main_bench(manifests, apart).speeds) == 1
    assert "faster" not in headline(manifests, apart)


def test_a_metric_is_compared_on_the_same_texts_only() -> None:
    before, after, _ = classifier_versions()[0]
    beside = comparable_metric("accuracy", before, after)
    assert beside is not None
    assert beside.name == "accuracy_reference"
    assert comparable_metric("label_agreement", before, after) is None
    elsewhere = replace(after, quality=replace(after.quality, data_sha256="other", reference="other"))
    assert comparable_metric("accuracy", before, elsewhere) is None


@pytest.mark.parametrize(
    ("before", "after", "expected"), [((962, 1000), (960, 1000), False), ((9620, 10000), (9400, 10000), True)]
)
def test_noise(before: tuple[int, int], after: tuple[int, int], expected: bool) -> None:
    old, new = share_metric("accuracy", *before), share_metric("accuracy", *after)
    assert is_more_than_noise(old, new) is expected
    assert is_more_than_noise(new, old) is expected


def test_differences_say_whether_they_are_more_than_noise() -> None:
    manifests, speeds = classifier_versions()
    bench = main_bench(manifests, speeds)
    found = {item.measure: item for item in differences(manifests[0], manifests[2], bench)}
    assert found["Size"].words == "9.6 times smaller"
    assert found["Throughput, 1 text of 16 tokens"].noise == "yes, the spreads are apart"
    assert found["Accuracy"].words == "−2.8 points"
    assert found["Accuracy"].noise == "yes"
    assert found["Accuracy"].is_better is False
    close = {item.measure: item for item in differences(manifests[0], manifests[1], bench)}
    assert close["Accuracy"].noise == "no"
    assert close["Accuracy"].is_better is None


def test_main_metric_prefers_what_the_baseline_also_has() -> None:
    embedders, _ = embedding_versions()
    assert main_metric(embedders, *embedders) == "retrieval_agreement"
    classifiers, _ = classifier_versions()
    assert main_metric(classifiers, classifiers[0], classifiers[1]) == "accuracy"


def test_a_reference_agrees_with_itself() -> None:
    manifests, _ = embedding_versions()
    metric = metric_beside("retrieval_agreement", manifests[0], manifests)
    assert metric is not None
    assert (metric.low, metric.high) == (1, 1)


def test_metric_findings() -> None:
    manifests, _ = classifier_versions()
    assert metric_finding("label_agreement", manifests) == (
        "Label agreement: the bound holds for 2-int8 and is not proven for 3-student-int8"
    )
    assert metric_finding("accuracy", manifests) == (
        "Accuracy: 2-int8 is within noise of 1-fp32 and 3-student-int8 is 2.8 points below 1-fp32"
    )


@pytest.mark.parametrize(
    ("metric", "bound", "outcome"),
    [
        (Metric("accuracy", 0.96, 0.95, 0.97, 9), Bound("accuracy", at_least=0.94), Outcome.HOLDS),
        (Metric("accuracy", 0.96, 0.95, 0.97, 9), Bound("accuracy", at_least=0.96), Outcome.NOT_PROVEN),
        (Metric("accuracy", 0.96, 0.95, 0.97, 9), Bound("accuracy", at_least=0.98), Outcome.MISSED),
        (Metric("error", 0.2, 0.1, 0.3, 9), Bound("error", at_most=0.3), Outcome.HOLDS),
        (Metric("error", 0.2, 0.1, 0.3, 9), Bound("error", at_most=0.25), Outcome.NOT_PROVEN),
        (Metric("error", 0.2, 0.1, 0.3, 9), Bound("error", at_most=0.05), Outcome.MISSED),
        (Metric("other", 0.2, 0.1, 0.3, 9), Bound("error", at_most=0.05), Outcome.NOT_MEASURED),
    ],
)
def test_verdicts(metric: Metric, bound: Bound, outcome: Outcome) -> None:
    verdict = verdict_of(Quality("r", "d", "", 0, (metric,), (bound,)), bound.metric)
    assert verdict is not None
    assert verdict.outcome is outcome
    assert verdict.sentence.endswith(".")


def test_evidence_is_read_without_trust() -> None:
    report: dict[str, object] = {
        "classes": [{"label": "a", "precision": 1, "recall": 0.5, "f1": 0.66, "support": 3, "more": 1}],
        "confusion": "not a matrix",
        "calibration": {"ece": 0.1, "bins": [{"confidence": 0.5, "accuracy": 0.4, "count": 3}]},
        "candidates": [{"scheme": "x"}],
        "unknown": object(),
    }
    found = read_evidence(report)
    assert found.classes[0].recall == 0.5
    assert found.calibration is not None
    assert found.calibration.bins[0].count == 3
    assert found.confusion is None
    assert found.candidates == ()
    assert found.unread == ("confusion", "candidates")


def test_metrics_of_a_study_are_read_in_their_units() -> None:
    loss, flipped = read_as("accuracy_loss_points"), read_as("answers_flipped_by_batch")
    assert (loss.label, loss.unit, loss.factor, loss.is_less_better) == ("Accuracy loss", "points", 1.0, True)
    assert (flipped.unit, flipped.is_less_better) == ("%", True)
    assert read_as("out_of_scope_auroc").label == "Out of scope AUROC"
