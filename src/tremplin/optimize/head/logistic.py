"""Multinomial logistic regression with an L2 penalty, in NumPy.

It is the same estimator as scikit-learn's ``LogisticRegression(C=1 / (l2 * n))`` (the tests compare the
coefficients), without the 164 MB that scikit-learn and SciPy would add to the serving install.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tremplin.optimize.head.descent import Descent, Floats, Problem, Targets, minimise

ClassWeight = Literal["balanced"] | Sequence[float]

TOLERANCE = 1e-4
"""Of the gradient's norm, relative to its norm at zero weights. On CLINC150 no answer differs from 1e-6, and no
probability by more than 0.002, in half the time."""
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Logistic:
    """A linear classifier: ``softmax(features @ weight + bias)``."""

    weight: Floats
    """(dim, classes)."""
    bias: Floats
    """(classes,), of mean zero."""
    iterations: int = 0
    converged: bool = True

    @property
    def note(self) -> str | None:
        """A sentence when the fit stopped at its iteration cap, else None."""
        if self.converged:
            return None
        return (
            f"The head's fit stopped after {self.iterations} iterations, before it converged; "
            "a larger L2 penalty converges sooner."
        )

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """Return (n, classes) for features (n, dim)."""
        return np.asarray(features, np.float64) @ self.weight + self.bias

    def probabilities(self, features: NDArray[np.floating], temperature: float = 1.0) -> Floats:
        """Return (n, classes) for features (n, dim); each row sums to 1."""
        return softmax(self.logits(features) / temperature)


@dataclass(frozen=True)
class PrincipalAxes:
    """Features seen from their mean, along their principal axes, where their covariance is diagonal.

    The change of coordinates is a rotation, which an L2 penalty does not see, and a shift, which the free
    bias absorbs: the minimum is the same, and the way to it short.
    """

    coordinates: Floats
    """(n, dim)."""
    variances: Floats
    """(dim,)."""
    mean: Floats
    """(dim,)."""
    rotation: Floats
    """(dim, dim), orthogonal."""

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> PrincipalAxes:
        """Return the axes of features (n, dim)."""
        wide = np.asarray(features, np.float64)
        mean = wide.mean(axis=0)
        centred = wide - mean
        variances, rotation = np.linalg.eigh(centred.T @ centred / len(centred))
        return cls(centred @ rotation, np.maximum(variances, 0.0), mean, rotation)

    def enter(self, head: Logistic) -> Floats:
        """Return the head's parameters (dim + 1, classes) in these coordinates."""
        return np.vstack([self.rotation.T @ head.weight, head.bias + self.mean @ head.weight])

    def leave(self, descent: Descent) -> Logistic:
        """Return the head of the features as they were."""
        weight = self.rotation @ descent.parameters[:-1]
        bias = descent.parameters[-1] - self.mean @ weight
        return Logistic(weight, bias - bias.mean(), descent.iterations, descent.converged)


def fit(
    features: NDArray[np.floating],
    targets: Targets,
    n_classes: int,
    *,
    l2: float,
    class_weight: ClassWeight | None = None,
    start: Logistic | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Logistic:
    """Return the head that minimises the mean log loss plus ``l2 / 2`` times the squared weights.

    ``features`` is (n, dim), float32 or float64 (computed in float64); ``targets`` (n,) holds class numbers.
    ``class_weight`` is None, "balanced" (each class counts the same) or one weight per class. ``start``
    warm-starts the descent and does not change where it ends. Raises ValueError when ``l2`` is not positive
    or a feature is not finite.
    """
    if not l2 > 0:
        raise ValueError(f"l2 is {l2}; it must be above 0, or separable classes have no minimum")
    if not np.isfinite(features).all():
        raise ValueError("a feature is not finite")
    axes = PrincipalAxes.of(features)
    parameters = np.zeros((features.shape[1] + 1, n_classes)) if start is None else axes.enter(start)
    weights = row_weights(targets, n_classes, class_weight)
    problem = problem_of(axes.coordinates, axes.variances, targets, weights, l2=l2, n_classes=n_classes)
    return axes.leave(minimise(problem, parameters, tolerance=tolerance, max_iterations=max_iterations))


def problem_of(
    coordinates: Floats, variances: Floats, targets: Targets, weights: Floats, *, l2: float, n_classes: int
) -> Problem:
    """Return the problem of a head on features (n, dim) given in their principal axes.

    ``variances`` is (dim,), ``weights`` (n,) as from ``row_weights``.
    """
    # The log loss curves by p (1 - p) times the variance; uniform p is where a descent from zero starts.
    # Böhning (Multinomial logistic regression algorithm, 1992) bounds it by 1/2.
    uniform = (1 - 1 / n_classes) / n_classes
    curvature = uniform * np.append(variances, 1.0)
    curvature[:-1] += l2
    return Problem(coordinates, targets, weights, l2, curvature)


def row_weights(targets: Targets, n_classes: int, class_weight: ClassWeight | None) -> Floats:
    """Return (n,) weights that sum to 1.

    "balanced" weighs a row by 1 / (rows of its class), as scikit-learn does up to a constant.
    """
    if class_weight is None:
        return np.full(len(targets), 1 / len(targets))
    if isinstance(class_weight, str):
        of_class = 1 / np.maximum(np.bincount(targets, minlength=n_classes), 1)
    else:
        of_class = np.asarray(class_weight, np.float64)
    weights = of_class[targets]
    return np.asarray(weights / weights.sum(), np.float64)


def softmax(logits: Floats) -> Floats:
    """Return probabilities (n, classes) of logits (n, classes)."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def log_losses(logits: Floats, targets: Targets) -> Floats:
    """Return (n,): minus the log probability of each row's target, in nats."""
    top = logits.max(axis=1)
    spread = np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return np.asarray(top + spread - logits[np.arange(len(targets)), targets])
