"""When to say "I do not know": the threshold on the best probability, with a guarantee."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, lgamma, log, sqrt

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""The chance, at most, that accuracy among the answered rows is below the target."""
STEP = 0.02
"""Share of the rows by which each candidate answers more than the one before."""
FIRST_ERRORS = 1
"""The strictest candidate can pass with this many wrong answers: 93 rows for a target of 0.95."""
NEGLIGIBLE = 1e-15


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
    walked from strict to loose and the walk ends at the first that fails. Where it starts and in which order
    it goes depend on the confidences alone, never on what is right, so the chance that the threshold kept is
    not good enough stays below ``LEVEL``; the smallest of all candidates that pass would be the luckiest of
    many looks (the tests simulate both). It starts where calibrated confidences make the proof easiest: the
    strictest candidates have few rows, and one wrong answer there would end the walk.

    When none passes, the candidate with the best bound. Raises ValueError when there is no row.
    Source: fixed sequence testing, as in Angelopoulos et al., Learn then test, 2021, section 4.2.
    """
    if len(confidence) == 0:
        raise ValueError("no row to choose a threshold on")
    if not 0 < target < 1:
        raise ValueError(f"target is {target}; a share between 0 and 1 was expected, and 1 cannot be proven")
    candidates = _candidates(np.asarray(confidence, np.float64), is_right, target)
    kept = None
    for candidate in candidates[_easiest(candidates, target) :]:
        if _chance_of_at_most(candidate.rows - candidate.right, candidate.rows, 1 - target) > LEVEL:
            break
        kept = candidate
    if kept is not None:
        return kept.threshold(len(confidence), is_reached=True)
    best = max(candidates, key=lambda candidate: share_lower_bound(candidate.right, candidate.rows))
    return best.threshold(len(confidence), is_reached=False)


@dataclass(frozen=True)
class _Candidate:
    """The rows that one threshold answers."""

    value: float
    rows: int
    right: int
    expected: float
    """Their mean confidence: the accuracy that calibrated probabilities foretell."""

    def threshold(self, n: int, *, is_reached: bool) -> Threshold:
        # The service compares in float32: the float below keeps the row itself answered.
        below = float(np.nextafter(np.float32(self.value), np.float32(0)))
        low = share_lower_bound(self.right, self.rows)
        return Threshold(below, self.rows / n, self.right / self.rows, low, is_reached)


def _candidates(confidence: NDArray[np.float64], is_right: NDArray[np.bool_], target: float) -> list[_Candidate]:
    """Return the thresholds to try, the strictest first; the last answers every row."""
    order = np.argsort(-confidence, kind="stable")
    falling, right, total = confidence[order], np.cumsum(is_right[order]), np.cumsum(confidence[order])
    n = len(order)
    sizes = {*range(min(_rows_to_prove(target), n), n, max(1, ceil(STEP * n))), n}
    # Rows of equal confidence are answered together.
    ends = sorted({int(np.searchsorted(-falling, -falling[size - 1], side="right")) for size in sizes})
    return [
        _Candidate(float(falling[end - 1]), end, int(right[end - 1]), float(total[end - 1]) / end) for end in ends
    ]


def _easiest(candidates: list[_Candidate], target: float) -> int:
    """Return the position where confidence stands above the target by most standard errors."""
    margins = [(candidate.expected - target) * sqrt(candidate.rows) for candidate in candidates]
    return int(np.argmax(margins))


def _rows_to_prove(target: float) -> int:
    """Return how many rows prove ``target`` when ``FIRST_ERRORS`` of them are wrong."""
    rows = FIRST_ERRORS + 1
    while _chance_of_at_most(FIRST_ERRORS, rows, 1 - target) > LEVEL:
        rows += 1
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
    """Return the binomial probability of at most ``events`` in ``n``, for 0 < share < 1.

    Summed outwards from its largest term, until a term no longer counts.
    """
    odds = share / (1 - share)
    top = min(events, int((n + 1) * share))
    choose = lgamma(n + 1) - lgamma(top + 1) - lgamma(n - top + 1)
    largest = exp(choose + top * log(odds) + n * log(1 - share))
    total = term = largest
    for k in range(top, 0, -1):
        term *= k / ((n - k + 1) * odds)
        total += term
        if term < NEGLIGIBLE * total:
            break
    term = largest
    for k in range(top, events):
        term *= (n - k) / (k + 1) * odds
        total += term
        if term < NEGLIGIBLE * total:
            break
    return min(total, 1.0)
