"""L-BFGS for a penalised multinomial log loss: the optimiser behind ``logistic.fit``.

Three things make it quick on sentence features. The caller gives the features in their principal axes, so a
diagonal stands in for the Hessian from the first step on (Böhning 1992). Logits are linear in the parameters,
so one product gives the logits along a whole search line, and a step that is tried again costs no product.
There is no sampling: the same machine with the same number of threads gives the same bits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Targets = NDArray[np.int64]

MEMORY = 10
"""Pairs of steps and gradient changes kept. Nocedal & Wright, Numerical Optimization, 2006: 3 to 20."""
SUFFICIENT_DECREASE = 1e-4
"""Armijo's constant. Nocedal & Wright, section 3.1."""
MAX_BACKTRACKS = 30


@dataclass(frozen=True)
class Problem:
    """Mean log loss plus ``l2 / 2`` times the squared weights; the bias is free."""

    features: Floats
    """(n, dim)."""
    targets: Targets
    """(n,), values in [0, classes)."""
    row_weights: Floats
    """(n,), summing to 1."""
    l2: float
    curvature: Floats
    """(dim + 1,): an estimate of the Hessian's diagonal, the bias last."""

    def logits(self, parameters: Floats) -> Floats:
        """Return (n, classes) for ``parameters`` (dim + 1, classes), whose last row is the bias."""
        scores: Floats = self.features @ parameters[:-1]
        scores += parameters[-1]
        return scores

    def loss(self, logits: Floats) -> tuple[float, Floats]:
        """Return the weighted log loss of (n, classes) logits and its gradient in the logits, as weighted."""
        shifted = logits - logits.max(axis=1, keepdims=True)
        rows = np.arange(len(self.targets))
        of_target = shifted[rows, self.targets]
        np.exp(shifted, out=shifted)
        sums = shifted.sum(axis=1)
        loss = float(self.row_weights @ (np.log(sums) - of_target))
        shifted *= (self.row_weights / sums)[:, None]
        shifted[rows, self.targets] -= self.row_weights
        return loss, shifted

    def penalty(self, parameters: Floats) -> float:
        """Return the L2 term."""
        weight = parameters[:-1]
        return 0.5 * self.l2 * float(np.vdot(weight, weight))

    def gradient(self, parameters: Floats, residual: Floats) -> Floats:
        """Return the gradient (dim + 1, classes) from the log loss's gradient in the logits."""
        gradient = np.empty_like(parameters)
        np.matmul(self.features.T, residual, out=gradient[:-1])
        gradient[:-1] += self.l2 * parameters[:-1]
        gradient[-1] = residual.sum(axis=0)
        return gradient


@dataclass(frozen=True)
class Descent:
    """Where the descent stopped."""

    parameters: Floats
    """(dim + 1, classes), the bias in the last row."""
    iterations: int
    converged: bool
    """False when the iteration cap came first."""


def minimise(problem: Problem, start: Floats, *, tolerance: float, max_iterations: int) -> Descent:
    """Return the minimum reached from ``start`` (dim + 1, classes).

    It stops when the gradient's norm falls to ``tolerance`` times its norm at zero parameters, when rounding
    forbids a further decrease, or after ``max_iterations``.
    Source: Liu & Nocedal, On the limited memory BFGS method, 1989.
    """
    goal = tolerance * _norm_at_zero(problem, start.shape[1])
    point = _point(problem, start, problem.logits(start))
    memory: deque[tuple[Floats, Floats, float]] = deque(maxlen=MEMORY)
    for iteration in range(max_iterations):
        if np.linalg.norm(point.gradient) <= goal:
            return Descent(point.parameters, iteration, converged=True)
        direction = _direction(point.gradient, memory, problem.curvature)
        following = _search(problem, point, direction)
        if following is None:  # the decrease left is below what float64 can tell
            return Descent(point.parameters, iteration, converged=True)
        moved = following.parameters - point.parameters
        change = following.gradient - point.gradient
        curvature = float(np.vdot(moved, change))
        if curvature > 0:  # always, for a convex loss, but for rounding
            memory.append((moved, change, 1 / curvature))
        point = following
    return Descent(point.parameters, max_iterations, converged=False)


@dataclass(frozen=True)
class _Point:
    """Where the descent stands."""

    parameters: Floats
    logits: Floats
    loss: float
    gradient: Floats


def _point(problem: Problem, parameters: Floats, logits: Floats) -> _Point:
    loss, residual = problem.loss(logits)
    gradient = problem.gradient(parameters, residual)
    return _Point(parameters, logits, loss + problem.penalty(parameters), gradient)


def _norm_at_zero(problem: Problem, classes: int) -> float:
    """Return the gradient's norm at zero parameters: the scale a tolerance is relative to."""
    zero = np.zeros((problem.features.shape[1] + 1, classes))
    _, residual = problem.loss(np.zeros((len(problem.targets), classes)))
    return float(np.linalg.norm(problem.gradient(zero, residual)))


def _direction(gradient: Floats, memory: deque[tuple[Floats, Floats, float]], curvature: Floats) -> Floats:
    """Return the L-BFGS direction by the two-loop recursion, the diagonal being the first guess."""
    direction = -gradient
    shares = []
    for moved, change, scale in reversed(memory):
        share = scale * float(np.vdot(moved, direction))
        direction -= share * change
        shares.append(share)
    direction /= curvature[:, None]
    if memory:
        moved, change, scale = memory[-1]
        # The diagonal knows the axes, the last pair knows the size.
        direction *= 1 / (scale * float(np.vdot(change, change / curvature[:, None])))
    for (moved, change, scale), share in zip(memory, reversed(shares), strict=True):
        direction += (share - scale * float(np.vdot(change, direction))) * moved
    return direction


def _search(problem: Problem, point: _Point, direction: Floats) -> _Point | None:
    """Return the first point from step 1 down that decreases the loss enough, None when there is none.

    A trial costs a softmax and no product: logits are linear in the step.
    """
    along = problem.logits(direction)
    slope = float(np.vdot(point.gradient, direction))
    step = 1.0
    for _ in range(MAX_BACKTRACKS):
        parameters, logits = point.parameters + step * direction, point.logits + step * along
        loss, residual = problem.loss(logits)
        loss += problem.penalty(parameters)
        if loss <= point.loss + SUFFICIENT_DECREASE * step * slope:
            return _Point(parameters, logits, loss, problem.gradient(parameters, residual))
        # The minimum of the parabola through the two values and the slope, kept inside [0.1, 0.5].
        parabola = -slope * step * step / (2 * (loss - point.loss - step * slope))
        step = min(max(parabola, 0.1 * step), 0.5 * step)
    return None
