"""When to say "I do not know": the threshold on the best probability, with a guarantee."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""The chance, at most, that accuracy among the answered rows is below the target."""
STEP = 0.02
"""Share of the rows by which each candidate answers more than the one before."""
FIRST_ERRORS = 1
"""The first candidate must pass with this many wrong answers, so that one odd row does not end the walk: it
answers 93 rows for a target of 0.95."""


@dataclass(frozen=True)
class Threshold:
    """Answer when the best probability is at least ``value``."""

    value: float
    coverage: float
    """Share of the rows answered."""
    accuracy: float
    """Share right among them."""
    accuracy_low: float
    """Its one-sided 95 % lower bound."""
    is_reached: bool
    """Whether that bound reaches the target."""


def abstain_threshold(
    confidence: NDArray[np.floating], is_right: NDArray[np.bool_], *, target: float = 0.95
) -> Threshold:
    """Return the smallest threshold whose accuracy among answered rows is proven to be at least ``target``.

    Both arguments have shape (n,): the best probability of each row and whether it is right. Candidates are
    walked from the strictest to the loosest and the walk ends at the first that fails. The order is fixed in
    advance, so the chance that the threshold kept is not good enough stays below ``LEVEL``; taking the
    smallest of all candidates that pass would look many times and break the promise (the tests simulate
    both). When none passes, the candidate with the best bound. Raises ValueError when there is no row.
    Source: fixed sequence testing as in Angelopoulos et al., Learn then test, 2021, section 4.2.
    """
    if len(confidence) == 0:
        raise ValueError("no row to choose a threshold on")
    candidates = _candidates(np.asarray(confidence, np.float64), is_right, target)
    kept: Threshold | None = None
    for candidate in candidates:
        if not candidate.is_reached:
            break
        kept = candidate
    return kept or max(candidates, key=lambda candidate: candidate.accuracy_low)


def _candidates(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], target: float
) -> list[Threshold]:
    """Return the thresholds to try, the strictest first; the last answers every row."""
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, right_so_far = confidence[order], np.cumsum(is_right[order])
    n = len(order)
    first = min(_rows_to_prove(target, FIRST_ERRORS), n)
    step = max(1, ceil(STEP * n))
    candidates: list[Threshold] = []
    for answered in sorted({*range(first, n, step), n}):
        value = sorted_confidence[answered - 1]
        rows = int(np.searchsorted(-sorted_confidence, -value, side="right"))  # equal rows stand together
        low = share_lower_bound(int(right_so_far[rows - 1]), rows)
        # The service compares in float32: the float below keeps the row itself answered.
        below = float(np.nextafter(np.float32(value), np.float32(0)))
        accuracy = float(right_so_far[rows - 1]) / rows
        candidates.append(Threshold(below, rows / n, accuracy, low, low >= target))
    return candidates


def _rows_to_prove(target: float, errors: int) -> int:
    """Return how many rows prove ``target`` when ``errors`` of them are wrong."""
    if target >= 1:
        raise ValueError(f"target is {target}; no finite number of rows proves an accuracy of 1")
    rows = errors + 1
    while share_lower_bound(rows - errors, rows) < target:
        rows = ceil(rows * 1.02) + 1
    return rows


def share_lower_bound(successes: int, n: int, level: float = LEVEL) -> float:
    """Return the one-sided lower confidence bound of a share, exact for any n.

    Source: Clopper & Pearson, Biometrika 26 (1934); found by bisection on the binomial tail.
    """
    if successes <= 0:
        return 0.0
    low, high = 0.0, successes / n
    for _ in range(50):
        middle = (low + high) / 2
        if _chance_of_at_most(n - successes, n, 1 - middle) < level:
            low = middle
        else:
            high = middle
    return low


def _chance_of_at_most(events: int, n: int, share: float) -> float:
    """Return the binomial probability of at most ``events`` in ``n``, for 0 < share < 1."""
    log_odds, start = log(share) - log(1 - share), n * log(1 - share)
    total = 0.0
    for k in range(events + 1):
        choose = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
        total += exp(choose + k * log_odds + start)
    return total
