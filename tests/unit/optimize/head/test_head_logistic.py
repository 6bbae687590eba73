"""The head's fit: parity with scikit-learn, and what must hold for any fit."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tremplin.optimize.head.choose import PENALTIES, choose_l2
from tremplin.optimize.head.logistic import fit, log_losses, softmax


def blobs(
    n: int, dim: int, classes: int, seed: int = 0, spread: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return overlapping classes, every one present, off centre and on a common direction as embeddings are."""
    random = np.random.default_rng(seed)
    targets = np.arange(n) % classes
    centres = random.normal(size=(classes, dim))
    features = centres[targets] + spread * random.normal(size=(n, dim)) + 2.0
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), targets


@pytest.mark.parametrize("class_weight", [None, "balanced", (1.0, 2.0, 0.5, 1.0)])
@pytest.mark.parametrize("strength", [1.0, 0.03])
def test_fit_equals_scikit_learn(class_weight, strength):
    # Tolerance: both stop near the same minimum; coefficients to 1e-3 of their size, probabilities to 1e-5.
    linear = pytest.importorskip("sklearn.linear_model")
    features, targets = blobs(400, 20, 4, spread=2.0)
    kept = np.ones(400, bool)
    kept[:200:4] = False  # class 0 is rarer, so that "balanced" matters
    features, targets = features[kept], targets[kept]
    n = len(targets)
    weights = dict(enumerate(class_weight)) if isinstance(class_weight, tuple) else class_weight
    # scikit-learn sums over rows where we average, with class weights that sum to n only when balanced.
    rows = n if not isinstance(class_weight, tuple) else np.array(class_weight)[targets].sum()
    theirs = linear.LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000, class_weight=weights)
    theirs.fit(features.astype(np.float64), targets)
    ours = fit(features, targets, 4, l2=strength / rows, class_weight=class_weight, tolerance=1e-9)
    size = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(ours.weight.T, theirs.coef_, atol=1e-3 * size)
    np.testing.assert_allclose(ours.bias, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3 * size)
    np.testing.assert_allclose(
        ours.probabilities(features), theirs.predict_proba(features.astype(np.float64)), atol=1e-5
    )


def test_two_classes_equal_scikit_learn_with_half_the_penalty():
    # Two columns share the weight that scikit-learn puts into one: w = w1 - w0, |w0|^2 + |w1|^2 = |w|^2 / 2.
    linear = pytest.importorskip("sklearn.linear_model")
    features, targets = blobs(200, 10, 2, spread=2.0)
    theirs = linear.LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000).fit(features.astype(np.float64), targets)
    ours = fit(features, targets, 2, l2=2 / (2.0 * 200), tolerance=1e-9)
    np.testing.assert_allclose(
        ours.probabilities(features), theirs.predict_proba(features.astype(np.float64)), atol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 6), dim=st.integers(1, 12), l2=st.floats(1e-4, 1))
def test_any_fit_gives_probabilities_and_a_gradient_of_zero(seed, classes, dim, l2):
    features, targets = blobs(60, dim, classes, seed)
    head = fit(features, targets, classes, l2=l2, tolerance=1e-8)
    probabilities = head.probabilities(features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert (probabilities >= 0).all()
    residual = (probabilities - np.eye(classes)[targets]) / len(targets)
    np.testing.assert_allclose(features.T @ residual + l2 * head.weight, 0, atol=1e-6)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-6)
    assert abs(head.bias.mean()) < 1e-9
    np.testing.assert_allclose(head.weight.sum(axis=1), 0, atol=1e-5)  # no class is the reference


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_rows_names_of_classes_rotations_and_shifts_change_nothing(seed):
    features, targets = blobs(90, 6, 3, seed)
    random = np.random.default_rng(seed)
    expected = fit(features, targets, 3, l2=0.01, tolerance=1e-9).probabilities(features)
    rows, names = random.permutation(90), random.permutation(3)
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]

    def again(changed, numbers):
        return fit(changed, numbers, 3, l2=0.01, tolerance=1e-9).probabilities(changed)

    np.testing.assert_allclose(again(features[rows], targets[rows]), expected[rows], atol=1e-5)
    np.testing.assert_allclose(again(features, names[targets])[:, names], expected, atol=1e-5)
    np.testing.assert_allclose(again(features @ rotation, targets), expected, atol=1e-5)
    np.testing.assert_allclose(again(features + 5.0, targets), expected, atol=1e-4)


def test_same_data_gives_the_same_bits_and_a_warm_start_the_same_place():
    features, targets = blobs(200, 16, 5)
    first = fit(features, targets, 5, l2=1e-3, tolerance=1e-8)
    second = fit(features, targets, 5, l2=1e-3, tolerance=1e-8)
    assert np.array_equal(first.weight, second.weight)
    other = fit(features, targets, 5, l2=1.0)
    warm = fit(features, targets, 5, l2=1e-3, start=other, tolerance=1e-8)
    np.testing.assert_allclose(warm.probabilities(features), first.probabilities(features), atol=1e-5)
    assert fit(features, targets, 5, l2=1e-3, start=first, tolerance=1e-6).iterations == 0


def test_a_row_twice_weighs_as_a_class_weight_of_two():
    features, targets = blobs(60, 4, 3)
    twice = np.concatenate([np.arange(60), np.flatnonzero(targets == 1)])
    repeated = fit(features[twice], targets[twice], 3, l2=0.01, tolerance=1e-9)
    weighted = fit(features, targets, 3, l2=0.01, class_weight=(1, 2, 1), tolerance=1e-9)
    np.testing.assert_allclose(repeated.weight, weighted.weight, atol=1e-5)


def test_separable_classes_and_dead_features_converge():
    features = np.repeat(np.eye(3, 8, dtype=np.float32), 10, axis=0)  # five columns are always 0
    targets = np.repeat(np.arange(3), 10)
    head = fit(features, targets, 3, l2=1e-6)
    assert head.converged
    assert head.note is None
    assert (head.probabilities(features).argmax(axis=1) == targets).all()


def test_iteration_cap_is_noted():
    features, targets = blobs(100, 8, 4)
    head = fit(features, targets, 4, l2=1e-6, max_iterations=2)
    assert not head.converged
    assert head.note is not None
    assert "after 2 iterations" in head.note


def test_fit_refuses_what_has_no_minimum():
    features, targets = blobs(20, 4, 2)
    with pytest.raises(ValueError, match="must be above 0"):
        fit(features, targets, 2, l2=0.0)
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit(features, targets, 2, l2=0.1)


def test_softmax_and_log_loss_stand_large_logits():
    logits = np.array([[1e4, 0.0], [-1e4, 0.0]])
    np.testing.assert_allclose(softmax(logits), [[1, 0], [0, 1]])
    np.testing.assert_allclose(log_losses(logits, np.array([0, 0])), [0, 1e4])


def test_choose_finds_the_penalty_a_plain_search_finds():
    features, targets = blobs(300, 30, 4, spread=2.5)
    folds = np.random.default_rng(0).permutation(300) % 5
    choice = choose_l2(features, targets, 4, folds)
    assert choice.penalty in PENALTIES
    assert min(choice.log_losses, key=lambda penalty: choice.log_losses[penalty]) == choice.penalty
    held = folds == 2
    alone = fit(features[~held], targets[~held], 4, l2=choice.l2)
    # Warm starts stop early (1e-2 of the gradient), which moves a probability by a few hundredths at most.
    np.testing.assert_allclose(softmax(choice.out_of_fold[held]), alone.probabilities(features[held]), atol=0.05)


def test_choice_does_not_depend_on_the_scale_of_the_features():
    features, targets = blobs(200, 10, 3, spread=2.0)
    folds = np.arange(200) // 3 % 5
    plain = choose_l2(features, targets, 3, folds)
    scaled = choose_l2(features * np.float32(64), targets, 3, folds)
    assert plain.penalty == scaled.penalty
    np.testing.assert_allclose(plain.out_of_fold, scaled.out_of_fold, atol=1e-3)


def test_features_that_are_all_equal_are_refused():
    with pytest.raises(ValueError, match="same features"):
        choose_l2(np.ones((20, 3), np.float32), np.arange(20) % 2, 2, np.arange(20) % 5)


@pytest.mark.slow
def test_a_thousand_rows_take_seconds():
    features, targets = blobs(1000, 384, 14, spread=3.0)
    start = time.perf_counter()
    choice = choose_l2(features, targets, 14, np.arange(1000) // 14 % 5)
    fit(features, targets, 14, l2=choice.l2)
    assert time.perf_counter() - start < 10  # 0.5 s on one quiet core; the margin is for a shared one
