"""Choose the L2 penalty by cross-validation, and keep what heads that never saw a row said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tremplin.optimize.head.calibrate import fit_temperature
from tremplin.optimize.head.descent import Floats, Targets, minimise
from tremplin.optimize.head.logistic import ClassWeight, PrincipalAxes, log_losses, problem_of, row_weights

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Tried from the strongest on. In units of the features' total variance over the rows: on unit vectors about
scikit-learn's 1 / C."""
TOLERANCE = 1e-2
"""Of the gradient's norm; with 1e-3 the same penalties win in three times the time."""
MAX_ITERATIONS = 100


@dataclass(frozen=True)
class Choice:
    """The penalty with the least cross-validated log loss."""

    l2: float
    """What ``logistic.fit`` takes."""
    penalty: float
    """The member of ``PENALTIES`` it comes from."""
    log_losses: dict[float, float]
    """Mean out-of-fold log loss of each penalty tried, after its temperature, in nats."""
    out_of_fold: Floats
    """(n, classes): the logits each row got, at the chosen penalty, from the head that did not see it."""
    temperature: float
    """By which to divide those logits."""


def choose_l2(
    features: NDArray[np.floating],
    targets: Targets,
    n_classes: int,
    folds: NDArray[np.int64],
    *,
    class_weight: ClassWeight | None = None,
    progress: Callable[[float], None] | None = None,
) -> Choice:
    """Return the penalty whose out-of-fold log loss, after temperature scaling, is least.

    ``features`` is (n, dim), ``targets`` and ``folds`` (n,): ``folds`` names the fold that holds a row out
    (``split.fold_numbers``). The temperature comes first because it is applied later anyway: without it, a
    weak penalty would win for its confidence alone (on the bundled tickets and CLINC150 that costs 0.1 to 1
    point of accuracy). The path goes from the strongest penalty to weaker ones, each fit starting where the
    one before ended, and stops when the loss has risen twice in a row: beyond lies overfitting.
    """
    axes = PrincipalAxes.of(features)
    unit = float(axes.variances.sum()) / len(targets)
    if unit <= 0:
        raise ValueError("every row has the same features; the encoder tells no text from another")
    path = _FoldPath(axes, targets, n_classes, folds, class_weight)
    tried: dict[float, float] = {}
    best: Choice | None = None
    for step, penalty in enumerate(PENALTIES, 1):
        logits = path.advance(penalty * unit)
        temperature = fit_temperature(logits, targets)
        tried[penalty] = float(log_losses(logits / temperature, targets).mean())
        if best is None or tried[penalty] < tried[best.penalty]:
            best = Choice(penalty * unit, penalty, tried, logits, temperature)
        if progress is not None:
            progress(step / len(PENALTIES))
        if _rises(list(tried.values())):
            break
    assert best is not None
    return best


class _FoldPath:
    """One head per fold, each walking from the strongest penalty to weaker ones."""

    def __init__(
        self,
        axes: PrincipalAxes,
        targets: Targets,
        n_classes: int,
        folds: NDArray[np.int64],
        class_weight: ClassWeight | None,
    ) -> None:
        self._axes = axes
        self._targets = targets
        self._n_classes = n_classes
        self._held = [folds == fold for fold in np.unique(folds)]
        self._weight = class_weight
        self._heads = [np.zeros((len(axes.variances) + 1, n_classes)) for _ in self._held]

    def advance(self, l2: float) -> Floats:
        """Refit every head at this penalty and return the out-of-fold logits (n, classes)."""
        logits = np.empty((len(self._targets), self._n_classes))
        for fold, held in enumerate(self._held):
            # The axes of all rows serve every fold: they change the path of the descent, not where it ends.
            coordinates, targets = self._axes.coordinates[~held], self._targets[~held]
            weights = row_weights(targets, self._n_classes, self._weight)
            problem = problem_of(
                coordinates, self._axes.variances, targets, weights, l2=l2, n_classes=self._n_classes
            )
            end = minimise(problem, self._heads[fold], tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS)
            self._heads[fold] = end.parameters
            logits[held] = self._axes.coordinates[held] @ end.parameters[:-1] + end.parameters[-1]
        return logits


def _rises(losses: list[float]) -> bool:
    """Return whether the last two steps both went up."""
    return len(losses) >= 3 and losses[-3] < losses[-2] < losses[-1]
