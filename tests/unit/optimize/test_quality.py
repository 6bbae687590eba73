from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tremplin.errors import BadInput
from tremplin.machine import Machine
from tremplin.optimize.optimiser import Candidate, choose
from tremplin.optimize.passes.graph import PassResult
from tremplin.optimize.quality import classification_metrics, embedding_metrics, read_bound
from tremplin.registry.passport import (
    BatchCosts,
    Bound,
    Metric,
    Quality,
    Speed,
    Throughput,
    extreme_metric,
    mean_metric,
    share_metric,
)


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def test_equal_vectors_have_perfect_metrics() -> None:
    texts, passages = unit_rows(50, 0), unit_rows(20, 1)
    found = by_name(embedding_metrics(texts, texts, passages, passages))
    assert found["cosine_min"].value == pytest.approx(1)
    assert found["retrieval_agreement"].value == 1
    assert found["retrieval_agreement"].n == 50


def test_a_bad_version_shows_in_every_metric() -> None:
    texts, passages = unit_rows(200, 0), unit_rows(20, 1)
    other, other_passages = unit_rows(200, 2), unit_rows(20, 3)
    found = by_name(embedding_metrics(texts, other, passages, other_passages))
    assert found["cosine_mean"].value < 0.2
    assert found["retrieval_agreement"].high < 0.3


def test_texts_that_are_passages_do_not_count() -> None:
    texts = unit_rows(10, 0)
    found = by_name(embedding_metrics(np.concatenate([texts, unit_rows(5, 9)]), unit_rows(15, 4), texts, texts))
    assert found["retrieval_agreement"].n == 5


def test_accuracy_is_measured_when_the_truth_is_known() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    flipped = probabilities[:, ::-1].copy()
    found = by_name(classification_metrics(probabilities, flipped, ["a", "b"], ["a", "b", "b"]))
    assert found["label_agreement"].value == 0
    assert found["accuracy_reference"].value == pytest.approx(2 / 3)
    assert found["accuracy"].value == pytest.approx(1 / 3)
    assert found["probability_difference_max"].value == pytest.approx(0.8)


@given(st.integers(1, 400), st.data())
def test_a_share_lies_in_its_interval_inside_zero_and_one(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    metric = share_metric("share", successes, n)
    assert 0 <= metric.low <= metric.value + 1e-12
    assert metric.value - 1e-12 <= metric.high <= 1


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(5)
    covered = {"share": 0, "mean": 0}
    for _ in range(1000):
        share = share_metric("share", int(generator.binomial(300, 0.9)), 300)
        covered["share"] += share.low <= 0.9 <= share.high
        mean = mean_metric("mean", generator.normal(2.0, 1.0, 60).tolist())
        covered["mean"] += mean.low <= 2.0 <= mean.high
    assert 930 <= covered["share"] <= 970
    assert 920 <= covered["mean"] <= 970


def test_no_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="no trials"):
        share_metric("share", 0, 0)
    with pytest.raises(ValueError, match="no values"):
        mean_metric("mean", [])


def quality(low: float, *bounds: Bound) -> Quality:
    return Quality("fp32", "texts", "", 0, (Metric("cosine_mean", low + 0.01, low, low + 0.02, 100),), bounds)


def test_a_bound_is_held_by_the_pessimistic_end_of_the_interval() -> None:
    bound = Bound("cosine_mean", at_least=0.99)
    assert quality(0.991, bound).broken_bounds() == ()
    assert "not proven" in quality(0.985, bound).broken_bounds()[0], "the value is above, the interval is not"


def test_a_bound_on_what_was_not_measured_is_broken() -> None:
    assert "was not measured" in quality(0.99, Bound("accuracy", at_least=0.9)).broken_bounds()[0]


def test_an_upper_bound_is_held_by_the_upper_end() -> None:
    assert not Bound("batch_dependence", at_most=0.01).is_met_by(extreme_metric("batch_dependence", 0.02, 3))


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("cosine_mean>=0.995", Bound("cosine_mean", at_least=0.995)),
        (" batch_dependence <= 1e-3 ", Bound("batch_dependence", at_most=0.001)),
    ],
)
def test_bounds_are_read(text: str, bound: Bound) -> None:
    assert read_bound(text) == bound


@pytest.mark.parametrize("text", ["", "cosine_mean", "cosine_mean>0.9", "cosine_mean>=high", "x>=1e", ">=1"])
def test_what_is_no_bound_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match=r"cosine_mean>=0\.995"):
        read_bound(text)


MACHINE = Machine("cpu", "x86_64", 2, "affinity", 1, (), "Linux")


def candidate(scheme: str, rate: float, low: float) -> Candidate:
    measured = (Throughput(1, 16, rate, rate, rate),)
    costs = BatchCosts(0.0, 1 / rate, 1e-9, 0.0)
    speed = Speed(MACHINE, "ort", 1, "", 3, 1.0, 1, 1.0, 2.0, 16, 10, measured, costs)
    from pathlib import Path

    return Candidate(scheme, PassResult(scheme, 1), Path(scheme), quality(low, Bound("cosine_mean", 0.9)), speed)


def test_the_fastest_sound_candidate_is_chosen() -> None:
    found = choose([candidate("slow", 100, 0.99), candidate("fast", 300, 0.92), candidate("broken", 900, 0.5)])
    assert found.scheme == "fast"


def test_of_equally_fast_ones_the_most_faithful_is_chosen() -> None:
    found = choose([candidate("a", 300, 0.92), candidate("b", 290, 0.97), candidate("c", 200, 0.99)])
    assert found.scheme == "b"


def test_when_none_is_sound_the_most_faithful_is_chosen_and_its_passport_says_so() -> None:
    found = choose([candidate("a", 300, 0.2), candidate("b", 100, 0.8)])
    assert found.scheme == "b"
    assert found.quality.broken_bounds()
