"""Pareto fronts: the choices that nothing beats on everything at once.

One point dominates another when it is nowhere worse and somewhere better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

Point = Mapping[str, float]
"""Figures by the name of their objective; other figures are not looked at."""


@dataclass(frozen=True)
class Objective:
    """A figure to make small, or large."""

    name: str
    higher_is_better: bool = False


def front(points: Sequence[Point], objectives: Sequence[Objective]) -> list[bool]:
    """Return for each point whether no other dominates it; points equal to a member are members too.

    Raises ValueError when a point lacks the figure of an objective: what was not measured cannot be ranked.
    """
    return [bool(is_member) for is_member in ~np.any(_domination(points, points, objectives), axis=0)]


def dominated_by(points: Sequence[Point], objectives: Sequence[Objective]) -> list[tuple[int, ...]]:
    """Return for each point the positions of the front's members that dominate it; none for a member."""
    dominates = _domination(points, points, objectives)
    dominates &= ~np.any(dominates, axis=0)[:, None]
    return [tuple(int(i) for i in np.flatnonzero(dominates[:, j])) for j in range(len(points))]


def dominates_all(front_a: Sequence[Point], points_b: Sequence[Point], objectives: Sequence[Objective]) -> bool:
    """Return whether each point of ``points_b`` is dominated by some point of ``front_a``.

    An equal point does not dominate. True when there is nothing to dominate.
    """
    return bool(np.any(_domination(front_a, points_b, objectives), axis=0).all())


def _domination(
    points_a: Sequence[Point], points_b: Sequence[Point], objectives: Sequence[Objective]
) -> NDArray[np.bool_]:
    """Return (a, b): whether each point of the first dominates each of the second."""
    ours, theirs = _costs(points_a, objectives)[:, None], _costs(points_b, objectives)[None]
    result: NDArray[np.bool_] = np.all(ours <= theirs, axis=2) & np.any(ours < theirs, axis=2)
    return result


def _costs(points: Sequence[Point], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Return (points, objectives), where less is better."""
    rows = [[_cost(i, point, objective) for objective in objectives] for i, point in enumerate(points)]
    return np.array(rows, np.float64).reshape(len(points), len(objectives))


def _cost(position: int, point: Point, objective: Objective) -> float:
    value = point.get(objective.name, float("nan"))
    if isnan(value):
        raise ValueError(f"point {position} has no {objective.name}; measure it, or leave the point out")
    return -value if objective.higher_is_better else value
