"""Temperature, calibration error and the threshold below which the classifier abstains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tremplin.optimize.head import abstain
from tremplin.optimize.head.abstain import abstain_threshold, share_lower_bound
from tremplin.optimize.head.calibrate import (
    calibration_floor,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from tremplin.optimize.head.logistic import log_losses, softmax


def stream(seed, n=2000, classes=5):
    """Return logits and targets drawn from their softmax: perfectly calibrated."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(n, classes))
    gumbel = random.gumbel(size=logits.shape)
    return logits, (logits + gumbel).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0, 15.0])
def test_temperature_undoes_a_miscalibrated_stream(temperature):
    logits, targets = stream(0, n=20_000)
    wrong = logits * temperature
    found = fit_temperature(wrong, targets)
    assert found == pytest.approx(temperature, rel=0.05)
    before, after = log_losses(wrong, targets).mean(), log_losses(wrong / found, targets).mean()
    assert after <= before
    if temperature != 1.0:
        assert after < before - 1e-3
    right = logits.argmax(axis=1) == targets
    error = [expected_calibration_error(softmax(z).max(axis=1), right) for z in (wrong, wrong / found)]
    assert error[1] < 0.02
    assert temperature == 1.0 or error[1] < error[0] / 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.05, 20))
def test_no_other_temperature_does_better(seed, scale):
    logits, targets = stream(seed, n=150)
    found = fit_temperature(logits * scale, targets)
    least = log_losses(logits * scale / found, targets).mean()
    for other in (0.9 * found, 1.1 * found):
        assert least <= log_losses(logits * scale / other, targets).mean() + 1e-12


def test_temperature_of_rows_all_right_or_all_noise_stays_finite():
    logits = np.eye(3)[np.arange(30) % 3]
    assert fit_temperature(logits, np.arange(30) % 3) == pytest.approx(0.01, rel=0.01)
    assert fit_temperature(logits, (np.arange(30) + 1) % 3) == pytest.approx(100, rel=0.01)


def test_bins_hold_as_many_rows_each_and_the_error_is_their_gap():
    confidence = np.array([0.9, 0.2, 0.8, 0.4])
    bins = reliability_bins(confidence, np.array([True, False, False, True]), bins=2)
    assert [(b.confidence, b.accuracy, b.count) for b in bins] == [
        (pytest.approx(0.3), 0.5, 2),
        (pytest.approx(0.85), 0.5, 2),
    ]
    error = expected_calibration_error(confidence, np.array([True, False, False, True]), bins=2)
    assert error == pytest.approx((0.2 + 0.35) / 2)
    assert len(reliability_bins(confidence, np.ones(4, bool))) == 4


def test_floor_is_what_perfect_calibration_shows():
    logits, targets = stream(1, n=300)
    confidence = softmax(logits).max(axis=1)
    floor = calibration_floor(confidence, seed=0)
    assert 0.03 < floor < 0.1
    measured = expected_calibration_error(confidence, logits.argmax(axis=1) == targets)
    assert abs(measured - floor) < 0.04
    assert calibration_floor(np.tile(confidence, 100), seed=0, draws=20) < floor / 3


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_lower_bound_is_clopper_and_pearson(n, share):
    beta = pytest.importorskip("scipy.stats").beta
    successes = round(share * n)
    expected = beta.ppf(0.05, successes, n - successes + 1) if successes else 0.0
    assert share_lower_bound(successes, n) == pytest.approx(expected, abs=1e-9)


def violations(choose, kind, n, runs=300, target=0.95):
    """Return how often the true accuracy of the answered rows is below the target, and how often one is kept."""
    below = kept = 0
    for seed in range(runs):
        random = np.random.default_rng([seed, n])
        confidence = random.beta(8, 0.4, n)
        chance = confidence if kind == "calibrated" else np.full(n, 0.945)
        threshold = choose(confidence, random.random(n) < chance)
        if threshold is None:
            continue
        kept += 1
        answered = confidence >= threshold
        below += chance[answered].mean() < target
    return below / runs, kept / runs


def walked(confidence, is_right):
    found = abstain_threshold(confidence, is_right)
    return found.value if found.is_reached else None


def luckiest(confidence, is_right):
    """The smallest of all candidates that pass, which is not what the service does."""
    passing = [
        candidate.value
        for candidate in abstain._candidates(confidence, is_right, 0.95)
        if share_lower_bound(candidate.right, candidate.rows) >= 0.95
    ]
    return passing[-1] if passing else None


@pytest.mark.parametrize("kind", ["calibrated", "flat"])
@pytest.mark.parametrize("n", [200, 800])
def test_threshold_keeps_its_promise_in_95_of_100_worlds(kind, n):
    below, kept = violations(walked, kind, n)
    assert below <= 0.05
    if kind == "calibrated":
        assert kept > 0.5


def test_taking_the_luckiest_threshold_would_break_the_promise():
    # Accuracy 0.945 whatever the confidence: no threshold is good enough, and enough looks find one.
    assert violations(luckiest, "flat", 800, runs=100)[0] > 0.05


def test_threshold_is_the_smallest_proven_one():
    confidence = np.linspace(0.999, 0.5, 1000)
    is_right = np.arange(1000) < 600
    found = abstain_threshold(confidence, is_right)
    assert found.is_reached
    assert found.accuracy_low >= 0.95
    assert 0.59 < found.coverage < 0.63
    assert (confidence >= found.value).mean() == found.coverage
    assert (confidence.astype(np.float32) >= np.float32(found.value)).mean() == found.coverage


def test_everything_right_answers_every_row():
    confidence = np.linspace(0.3, 1, 100)
    found = abstain_threshold(confidence, np.ones(100, bool))
    assert found.coverage == 1
    assert found.value < 0.3


def test_out_of_reach_gives_the_best_bound_and_says_so():
    confidence = np.linspace(1, 0.5, 40)
    found = abstain_threshold(confidence, np.arange(40) % 2 == 0)
    assert not found.is_reached
    assert 0 < found.accuracy_low < 0.95


def test_equal_confidences_are_answered_together():
    found = abstain_threshold(np.full(300, 0.8), np.ones(300, bool))
    assert found.coverage == 1


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5])
def test_a_target_that_cannot_be_proven_is_refused(target):
    with pytest.raises(ValueError, match="between 0 and 1"):
        abstain_threshold(np.ones(3), np.ones(3, bool), target=target)


def test_no_row_is_refused():
    with pytest.raises(ValueError, match="no row"):
        abstain_threshold(np.array([]), np.array([], bool))
