"""The gate: how often its bounds hold, how often it lets a bad candidate pass, and what it names."""

from __future__ import annotations

from functools import cache
from math import erf, inf, lgamma, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tremplin.errors import BadInput
from tremplin.optimize.gate import (
    CORRECTION,
    Gate,
    Loss,
    PartLoss,
    auroc,
    broken_classes,
    chance_of_such_a_loss,
    class_losses,
    language_slices,
    length_slices,
    loss_from_counts,
    loss_metric,
    paired_loss,
    paired_metric_loss,
    rows_to_prove,
    score_upper_bound,
    slice_losses,
)
from tremplin.optimize.head.abstain import share_lower_bound
from tremplin.registry.passport import Bound

Floats = NDArray[np.float64]
COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 200))


# -- every outcome of n rows, and how likely it is: coverage without the noise of a simulation ----------


@cache
def outcomes(n: int, most: int) -> tuple[Floats, Floats]:
    """All counts (lost, gained) of n rows with up to ``most`` of each."""
    lost, gained = (grid.ravel() for grid in np.meshgrid(np.arange(most + 1.0), np.arange(most + 1.0)))
    return lost[lost + gained <= n], gained[lost + gained <= n]


@cache
def bounds_of(n: int, most: int, correction: float = CORRECTION) -> Floats:
    """The one-sided bound of each outcome, as a share."""
    return score_upper_bound(*outcomes(n, most), n, correction=correction)


def chances(n: int, most: int, lost_share: float, gained_share: float) -> Floats:
    lost, gained = outcomes(n, most)
    log_factorial = np.array([lgamma(k + 1) for k in range(n + 1)])
    same = n - lost - gained
    ways = log_factorial[n] - sum(log_factorial[count.astype(int)] for count in (lost, gained, same))
    shares = (max(share, 1e-300) for share in (lost_share, gained_share, 1 - lost_share - gained_share))
    found = np.exp(ways + sum(c * np.log(p) for c, p in zip((lost, gained, same), shares, strict=True)))
    assert found.sum() == pytest.approx(1, abs=1e-6), "an outcome is missing"
    return found


def coverage(n: int, discordance: float, loss: float, correction: float = CORRECTION) -> float:
    """How often the nominal 95 % bound covers, when so many rows differ and so many more are lost."""
    most = min(n, int(n * discordance + 7 * (n * discordance) ** 0.5 + 15))
    covers = bounds_of(n, most, correction) >= loss - 1e-12
    return float(chances(n, most, (discordance + loss) / 2, (discordance - loss) / 2)[covers].sum())


CELLS = [(n, discordance) for n in (20, 60, 300, 1000) for discordance in (0.005, 0.02, 0.1, 0.3)]
CELLS += [(4500, discordance) for discordance in (0.005, 0.02, 0.05)]
GRID = [
    (n, discordance, part * discordance) for n, discordance in CELLS for part in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)
]


def test_the_bound_covers_the_true_loss_over_the_whole_grid() -> None:
    found = {cell: coverage(*cell) for cell in GRID}
    worst = min(found, key=found.__getitem__)
    assert found[worst] >= 0.95, worst


def test_without_correction_it_would_not() -> None:
    assert coverage(300, 0.009, 0.009, correction=0.0) < 0.94


def test_when_rows_are_only_lost_the_bound_is_about_the_exact_one() -> None:
    found = [coverage(300, share, share) for share in np.linspace(0.001, 0.05, 50)]
    assert min(found) >= 0.949
    for lost in range(0, 60, 7):
        exact = 1 - share_lower_bound(300 - lost, 300)
        assert 0.998 * exact <= float(score_upper_bound(lost, 0, 300)) <= 1.07 * exact


def test_a_bootstrap_would_miss_rare_losses() -> None:
    """A percentile bootstrap of the rows answers 0 when no row was lost, which is wrong one time in eight here."""
    n, loss = 200, 0.01
    random = np.random.default_rng(0)
    drawn = random.multinomial(n, [loss, 0, 1 - loss], size=500)
    again = random.multinomial(n, drawn[:, None] / n, size=(500, 1000))
    bootstrap = np.quantile(again[..., 0] / n, 0.95, axis=1)
    ours = score_upper_bound(drawn[:, 0], drawn[:, 1], n)
    assert (bootstrap >= loss).mean() < 0.9
    assert (ours >= loss).mean() >= 0.94


# -- the gate's promise --------------------------------------------------------------------------------


def chance_to_pass(n: int, discordance: float, loss: float, allowed: float) -> float:
    most = 330
    passes = bounds_of(n, most) <= allowed
    return float(chances(n, most, (discordance + loss) / 2, (discordance - loss) / 2)[passes].sum())


@pytest.mark.parametrize("discordance", [0.006, 0.02, 0.05, 0.1])
def test_a_candidate_at_the_limit_passes_at_most_one_time_in_twenty(discordance: float) -> None:
    assert chance_to_pass(4500, discordance, 0.005, 0.005) <= 0.05


@pytest.mark.parametrize("discordance", [0.016, 0.03, 0.06])
def test_a_bad_candidate_passes_at_most_one_time_in_a_hundred(discordance: float) -> None:
    assert chance_to_pass(4500, discordance, 0.015, 0.005) <= 0.01


def test_a_candidate_that_loses_nothing_passes() -> None:
    assert chance_to_pass(4500, 0.01, 0.0, 0.005) > 0.9


def test_seeded_bad_artefacts_are_stopped() -> None:
    """Right and wrong answers row by row: 1.5 points lost among 3 % of rows that differ, where 0.5 are allowed."""
    gate, n, passed = Gate(0.5), 4500, 0
    for seed in range(1000):
        draw = np.random.default_rng(seed).random(n)
        reference = draw < 0.9
        candidate = np.where(draw < 0.0225, False, reference) | (draw > 0.9925)
        passed += gate.decide(paired_loss(reference, candidate)).passes
    assert passed <= 10


def test_the_verdict_says_why() -> None:
    loss = loss_from_counts(35, 20, 4500)
    verdict = Gate(0.5).decide(loss)
    assert not verdict.passes
    assert verdict.reasons == (
        f"it may lose {loss.upper:.2f} points (one-sided 95 % bound; measured 0.33 on 4500 rows) "
        "and 0.5 are allowed: more rows may prove it",
    )
    assert "more rows" not in Gate(0.5).decide(loss_from_counts(60, 20, 4500)).reasons[0]
    assert Gate(0.5).decide(loss_from_counts(20, 20, 4500)).reasons == ()


def test_a_bound_that_is_not_a_number_fails() -> None:
    assert not Gate(0.5).decide(Loss(nan, nan, nan, nan, 10, 0, 0)).passes


@pytest.mark.parametrize("allowed", [-0.1, nan, inf])
def test_an_allowance_that_makes_no_sense_is_refused(allowed: float) -> None:
    with pytest.raises(BadInput, match=r"such as 0\.5"):
        Gate(allowed)
    with pytest.raises(BadInput, match="class_tolerance_points"):
        Gate(0.5, class_tolerance_points=allowed)


@pytest.mark.parametrize("allowed", [0.1, 0.5, 2.0, 20.0])
def test_rows_to_prove_is_where_a_perfect_candidate_begins_to_pass(allowed: float) -> None:
    n = rows_to_prove(allowed)
    assert Gate(allowed).decide(loss_from_counts(0, 0, n)).passes
    assert not Gate(allowed).decide(loss_from_counts(0, 0, n - 1)).passes


def test_nothing_proves_that_nothing_is_lost() -> None:
    with pytest.raises(ValueError, match="at most 0 points"):
        rows_to_prove(0)


# -- the loss ------------------------------------------------------------------------------------------


def test_the_published_example() -> None:
    """Contact lenses: 1 of 44 pairs lost, none gained. Tango 1998, section 6.1: limit 0.096."""
    assert float(score_upper_bound(1, 0, 44, correction=0)) == pytest.approx(0.096, abs=5e-4)


def test_the_standard_error_is_of_the_most_likely_shares() -> None:
    """At the bound the likelihood, searched by brute force, gives 1.645 standard errors."""
    for lost, gained, n in ((1, 0, 44), (12, 5, 300), (3, 9, 100), (0, 4, 60)):
        loss = float(score_upper_bound(lost, gained, n, correction=0))
        share = np.linspace(max(0, -loss), (1 - loss) / 2, 400_001)[1:-1]
        likelihood = lost * np.log(share + loss) + gained * np.log(share)
        likelihood += (n - lost - gained) * np.log(1 - loss - 2 * share)
        variance = n * (2 * share[likelihood.argmax()] + loss - loss * loss)
        assert (n * loss - lost + gained) / variance**0.5 == pytest.approx(1.644854, rel=1e-3)


def test_the_loss_counts_rows_that_differ() -> None:
    loss = paired_loss([True, True, True, False, False], [True, False, False, True, False])
    assert (loss.points, loss.lost, loss.gained, loss.n) == (pytest.approx(20), 2, 1, 5)


@settings(max_examples=50)
@given(COUNTS)
def test_interval_and_bound_hold_the_loss(counts: tuple[int, int, int]) -> None:
    lost, gained, same = counts
    loss = loss_from_counts(lost, gained, lost + gained + same)
    assert -100 <= loss.low <= loss.points + 1e-9
    assert loss.points - 1e-9 <= loss.upper <= loss.high <= 100
    mirrored = loss_from_counts(gained, lost, loss.n)
    assert (mirrored.low, mirrored.high) == (pytest.approx(-loss.high), pytest.approx(-loss.low))


@settings(max_examples=50)
@given(COUNTS)
def test_one_more_lost_row_raises_the_bound_and_one_more_gained_lowers_it(counts: tuple[int, int, int]) -> None:
    lost, gained, same = counts
    n = lost + gained + same
    here = loss_from_counts(lost, gained, n).upper
    assert loss_from_counts(lost + 1, gained, n).upper > here
    assert loss_from_counts(lost, gained + 1, n).upper < here + 1e-9


@pytest.mark.parametrize(("reference", "candidate"), [([], []), ([True], [True, False]), ([[True]], [[True]])])
def test_rows_that_are_no_pairs_are_refused(reference: list[bool], candidate: list[bool]) -> None:
    with pytest.raises(ValueError, match="a loss"):
        paired_loss(reference, candidate)
    with pytest.raises(ValueError, match="a loss"):
        paired_metric_loss(reference, candidate)


def test_as_a_metric_the_bound_is_the_high_end() -> None:
    loss = loss_from_counts(30, 20, 4500)
    metric = loss_metric(loss)
    assert (metric.name, metric.value, metric.low, metric.high, metric.n) == (
        "accuracy_loss_points",
        loss.points,
        loss.low,
        loss.upper,
        4500,
    )
    assert Bound("accuracy_loss_points", at_most=loss.upper + 0.001).is_met_by(metric)
    assert not Bound("accuracy_loss_points", at_most=loss.upper - 0.001).is_met_by(metric)


# -- classes and slices --------------------------------------------------------------------------------


def test_losses_by_class() -> None:
    truth = [0, 0, 1, 1, 1]
    parts = class_losses(truth, [0, 1, 1, 1, 0], [1, 0, 1, 0, 0], ["a", "b", "never seen"])
    assert [(part.name, part.loss.lost, part.loss.gained, part.loss.n) for part in parts] == [
        ("a", 1, 1, 2),
        ("b", 1, 0, 3),
    ]


def test_losses_by_length_and_language() -> None:
    lengths = length_slices([3, 3, 4, 5, 8, 8, 9, 12, 30])
    assert {name: int(rows.sum()) for name, rows in lengths.items()} == {
        "3 to 4 tokens": 3,
        "5 to 8 tokens": 3,
        "9 to 30 tokens": 3,
    }
    assert list(length_slices([7, 7, 7])) == ["7 to 7 tokens"]
    languages = language_slices(["fr", "en", "fr"])
    parts = slice_losses([True, True, True], [False, True, False], {**languages, "none": np.zeros(3, bool)})
    assert [(part.name, part.loss.points, part.loss.n) for part in parts] == [
        ("language en", 0, 1),
        ("language fr", 100, 2),
    ]


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.1])
def test_the_p_value_is_exact(tolerance: float) -> None:
    """Whatever the share of gained rows, p <= level happens in at most that share of evaluations."""
    n = 30
    lost, gained = outcomes(n, n)
    p = np.array([chance_of_such_a_loss(int(b), int(c), n, tolerance) for b, c in zip(lost, gained, strict=True)])
    for share in (0.0, 0.003, 0.02, 0.08, 0.2, (1 - tolerance) / 2):
        likely = chances(n, n, share + tolerance, share)
        for level in (0.05, 0.01, 0.05 / 77):
            assert likely[p <= level].sum() <= level * 1.001


def test_at_tolerance_0_it_is_no_weaker_than_the_sign_test() -> None:
    for lost in (5, 8, 12):
        assert chance_of_such_a_loss(lost, 0, 58, 0.0) <= 1.2 * 0.5**lost


def test_exact_and_normal_p_values_meet() -> None:
    exact = chance_of_such_a_loss(186, 114, 3000, 0.005)
    beyond = chance_of_such_a_loss(187, 114, 3000, 0.005)
    assert beyond == pytest.approx(exact, rel=0.35)


def rows_of_77_classes(seed: int, broken_share: float) -> tuple[NDArray[np.int64], Floats, Floats]:
    """58 rows a class, 2 % of answers flipped either way; class 5 loses ``broken_share`` of its right answers."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(77), 58)
    wrong = (truth + 1) % 77
    reference_right = random.random(len(truth)) < 0.9
    flipped = random.random(len(truth)) < 0.02
    is_lost = (truth == 5) & (random.random(len(truth)) < broken_share)
    candidate_right = (reference_right ^ flipped) & ~is_lost
    return truth, np.where(reference_right, truth, wrong), np.where(candidate_right, truth, wrong)


def test_a_broken_class_is_named_though_the_average_is_fine() -> None:
    names = [f"intent {i}" for i in range(77)]
    named = 0
    for seed in range(6):
        truth, reference, candidate = rows_of_77_classes(seed, 0.3)
        total = paired_loss(reference == truth, candidate == truth)
        verdict = Gate(3.0).decide(total, class_losses(truth, reference, candidate, names))
        assert total.upper < 3.0, "the average hides it"
        assert {part.name for part in verdict.broken_classes} <= {"intent 5"}
        named += bool(verdict.broken_classes)
        assert verdict.passes is not bool(verdict.broken_classes)
    assert named >= 5
    assert verdict.reasons[0].startswith("'intent 5' is broken: ")


def test_many_sound_classes_are_seldom_called_broken() -> None:
    """77 classes that lose just the 2 points tolerated: in 95 % of evaluations none of them is named."""
    counts = np.random.default_rng(0).multinomial(58, [0.03, 0.01, 0.96], size=(2000, 77))[..., :2]
    p = np.ones((counts[..., 0].max() + 1, counts[..., 1].max() + 1))
    for lost, gained in np.unique(counts.reshape(-1, 2), axis=0).tolist():
        p[lost, gained] = chance_of_such_a_loss(lost, gained, 58, 0.02)
    smallest = p[counts[..., 0], counts[..., 1]].min(axis=1)
    # Holm names any class exactly when the smallest p-value is within level / classes.
    assert (smallest <= 0.05 / 77).mean() <= 0.05
    for i in (int(smallest.argmin()), int(smallest.argmax())):
        parts = [PartLoss(str(k), loss_from_counts(b, c, 58)) for k, (b, c) in enumerate(counts[i].tolist())]
        assert bool(broken_classes(parts, 2.0)) is bool(smallest[i] <= 0.05 / 77)


def test_a_broken_slice_fails_the_gate_too() -> None:
    n = 600
    is_short = np.arange(n) < 100
    candidate = ~(is_short & (np.arange(n) % 2 == 0))
    slices = slice_losses(np.ones(n, bool), candidate, {"short": is_short, "long": ~is_short})
    verdict = Gate(20.0).decide(paired_loss(np.ones(n, bool), candidate), slices=slices)
    assert [part.name for part in verdict.broken_slices] == ["short"]
    assert not verdict.passes
    assert verdict.reasons == (
        "'short' is broken: 50 of 100 rows lost and 0 gained, 50.0 points where 20 are tolerated",
    )


# -- scores of queries ---------------------------------------------------------------------------------


def test_a_loss_of_scores() -> None:
    random = np.random.default_rng(0)
    reference = random.random(400)
    candidate = np.clip(reference - random.normal(0.01, 0.05, 400), 0, 1)
    loss = paired_metric_loss(reference, candidate, seed=3)
    assert loss.points == pytest.approx(100 * (reference - candidate).mean())
    assert loss.low < loss.points < loss.upper < loss.high
    assert loss == paired_metric_loss(reference, candidate, seed=3)
    mirrored = paired_metric_loss(candidate, reference, seed=3)
    assert mirrored.low == pytest.approx(-loss.high)
    with pytest.raises(ValueError, match="finite"):
        paired_metric_loss([0.1, nan], [0.1, 0.2])


@pytest.mark.parametrize("lost", [0, 1, 4])
def test_of_scores_that_are_0_or_1_the_bound_is_the_exact_one(lost: int) -> None:
    n = 120
    loss = paired_metric_loss(np.ones(n), np.arange(n) >= lost)
    exact = 1 - share_lower_bound(n - lost, n)
    assert loss.upper / 100 == pytest.approx(exact, rel=0.06)


@pytest.mark.parametrize(
    ("share", "mean", "spread"),
    [(0.01, 1.0, 0.0), (0.05, 0.2, 0.3), (0.3, 0.02, 0.15)],
    ids=["rare and total", "skewed", "many small"],
)
def test_the_bound_of_scores_covers(share: float, mean: float, spread: float) -> None:
    random, n, covered = np.random.default_rng(1), 150, 0
    for seed in range(300):
        change = np.where(random.random(n) < share, random.normal(mean, spread, n), 0.0)
        covered += paired_metric_loss(change, np.zeros(n), seed=seed).upper >= 100 * share * mean
    assert covered / 300 >= 0.93


# -- out of scope --------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_auroc_counts_pairs(inside: list[int], outside: list[int]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    metric = auroc(inside, outside)
    assert metric.value == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert metric.n == len(inside) + len(outside)


def test_a_perfect_separation_is_not_certain() -> None:
    metric = auroc(np.arange(50, 100), np.arange(50))
    assert (metric.value, metric.high) == (1, 1)
    assert 0.8 < metric.low < 0.97


@pytest.mark.parametrize(
    ("n_in", "n_out", "shift"), [(30, 30, 1.0), (30, 30, 2.5), (300, 60, 2.0), (300, 60, 0.3)]
)
def test_the_interval_of_auroc_covers(n_in: int, n_out: int, shift: float) -> None:
    truth = (1 + erf(shift / 2)) / 2  # normal scores: Phi(shift / sqrt(2))
    random, covered = np.random.default_rng(0), 0
    for _ in range(500):
        metric = auroc(random.normal(shift, 1, n_in), random.normal(0, 1, n_out))
        covered += metric.low <= truth <= metric.high
    assert covered / 500 >= 0.93


def test_auroc_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="0 out"):
        auroc([0.5], [])
