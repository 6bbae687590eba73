"""The highest rate at which a server still answers in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.load import Outcome, Run, Target, open_loop, run_load

# One in a hundred may be late: the bound is on p99.
KEPT = 0.99
TRIES = 5
# Fewer requests say nothing about the hundredth; more seconds than this try everybody's patience.
LEAST_REQUESTS, MOST_SECONDS = 300, 12.0


@dataclass(frozen=True)
class Goodput:
    """What a search found."""

    offered: float
    """Requests per second of the highest rate that kept the bound; 0 when none did."""
    goodput: float
    """Answers in time per second at that rate."""
    tries: tuple[str, ...]


def highest_goodput(
    target: Target, requests: Sequence[bytes], bound_s: float, *, start: float, seconds: float
) -> Goodput:
    """Search, by bisection from ``start`` requests per second, the rate that keeps 99 % within the bound."""
    low, high, rate = 0.0, math.inf, start
    best, tries = 0.0, []
    for number in range(TRIES):
        run = _try(target, requests, bound_s, rate, seconds, seed=number)
        is_kept = run.kept(bound_s) >= KEPT
        tries.append(f"{rate:.0f}/s: {run.kept(bound_s):.1%} in time")
        if is_kept:
            low, best = rate, max(best, run.goodput(bound_s))
        else:
            high = rate
        rate = (low + high) / 2 if math.isfinite(high) else 1.4 * rate
    return Goodput(low, best, tuple(tries))


def _try(
    target: Target, requests: Sequence[bytes], bound_s: float, rate: float, seconds: float, *, seed: int
) -> Run:
    seconds = max(seconds, min(LEAST_REQUESTS / rate, MOST_SECONDS))
    may_miss = (1 - KEPT) * rate * seconds + 1
    seen = missed = 0

    def is_lost(outcomes: list[Outcome]) -> bool:
        nonlocal seen, missed
        missed += sum(o.status != 200 or o.latency_s > bound_s for o in outcomes[seen:])
        seen = len(outcomes)
        return missed > may_miss

    return run_load(open_loop(target, requests, rate, seconds=seconds, give_up=is_lost, seed=seed))
