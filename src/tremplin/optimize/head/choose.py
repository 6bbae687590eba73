"""Choose the L2 penalty by cross-validation, and keep the answers each row got from heads that never saw it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tremplin.optimize.head.descent import Floats, Targets, minimise
from tremplin.optimize.head.logistic import ClassWeight, PrincipalAxes, log_losses, problem_of

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Tried from the strongest on. In units of the features' total variance over the rows: on unit vectors about
scikit-learn's 1 / C."""
TOLERANCE = 1e-2
"""Of the gradient's norm. Ten times less changes the log loss by under 0.001 and takes twice the time."""
MAX_ITERATIONS = 100


@dataclass(frozen=True)
class Choice:
    """The penalty with the least cross-validated log loss."""

    l2: float
    """What ``logistic.fit`` takes."""
    penalty: float
    """The member of ``PENALTIES`` it comes from."""
    log_losses: dict[float, float]
    """Mean out-of-fold log loss of each penalty tried, in nats."""
    out_of_fold: Floats
    """(n, classes): the logits each row got, at the chosen penalty, from the head that did not see it."""


def choose_l2(
    features: NDArray[np.floating],
    targets: Targets,
    n_classes: int,
    folds: NDArray[np.int64],
    *,
    class_weight: ClassWeight | None = None,
    progress: Callable[[float], None] | None = None,
) -> Choice:
    """Return the penalty whose out-of-fold log loss is least.

    ``features`` is (n, dim), ``targets`` and ``folds`` (n,): ``folds`` names the fold that holds a row out
    (``split.fold_numbers``). The path goes from the strongest penalty to weaker ones, each fit starting from
    the one before, and stops when the loss has risen twice in a row: beyond lies overfitting.
    """
    axes = PrincipalAxes.of(features)
    unit = float(axes.variances.sum()) / len(targets)
    if unit <= 0:
        raise ValueError("every row has the same features; the encoder tells no text from another")
    n_folds = int(folds.max()) + 1
    heads = [np.zeros((features.shape[1] + 1, n_classes)) for _ in range(n_folds)]
    tried: dict[float, float] = {}
    best: tuple[float, Floats] | None = None
    for penalty in PENALTIES:
        logits = np.empty((len(targets), n_classes))
        for fold in range(n_folds):
            held = folds == fold
            problem = problem_of(
                axes.coordinates[~held], axes.variances, targets[~held], n_classes, penalty * unit, class_weight
            )
            end = minimise(problem, heads[fold], tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS)
            heads[fold] = end.parameters
            logits[held] = axes.coordinates[held] @ end.parameters[:-1] + end.parameters[-1]
            if progress is not None:
                progress((len(tried) + (fold + 1) / n_folds) / len(PENALTIES))
        tried[penalty] = float(log_losses(logits, targets).mean())
        if best is None or tried[penalty] < tried[best[0]]:
            best = penalty, logits
        if _rises(list(tried.values())):
            break
    assert best is not None
    if progress is not None:
        progress(1.0)
    return Choice(best[0] * unit, best[0], tried, best[1])


def _rises(losses: list[float]) -> bool:
    """Return whether the last two steps both went up."""
    return len(losses) >= 3 and losses[-3] < losses[-2] < losses[-1]
