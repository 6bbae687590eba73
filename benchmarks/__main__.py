"""``python -m benchmarks [SCENARIO ...]``: run scenarios one after the other and keep their results.

Each result is one JSON file in ``benchmarks/results/`` with its machine, threads, versions, date and spread;
``benchmarks/RESULTS.md`` is drawn from them. ``serving`` stands for all scenarios of ``benchmarks/serving/``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from benchmarks import compression, first_run
from benchmarks.optimize import search, tiers
from benchmarks.record import Result, draw, keep
from benchmarks.serving import against_peers, cached, classes, cores, limit, overload, soak

SERVING: dict[str, Callable[[argparse.Namespace], Result]] = {
    "limit": lambda chosen: limit.run(chosen.rounds, **_seconds(chosen)),
    "peers": lambda chosen: against_peers.run(chosen.rounds, names=chosen.peers, **_seconds(chosen)),
    "overload": lambda chosen: overload.run(chosen.rounds, **_seconds(chosen)),
    "cached": lambda chosen: cached.run(chosen.rounds, **_seconds(chosen)),
    "classes": lambda chosen: classes.run(chosen.rounds, **_seconds(chosen)),
    "cores": lambda chosen: cores.run(chosen.rounds, **_seconds(chosen)),
    "soak": lambda chosen: soak.run(minutes=chosen.minutes),
}
OPTIMIZING: dict[str, Callable[[argparse.Namespace], Result]] = {
    "intents": lambda chosen: tiers.run(tiers.INTENTS, chosen.rounds),
    "sentiment": lambda chosen: tiers.run(tiers.SENTIMENT, chosen.rounds),
    "search": lambda chosen: search.run(chosen.rounds),
    "steps": lambda chosen: _steps(chosen.rounds),
}
SCENARIOS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "first-run": lambda chosen: first_run.run(chosen.rounds),
    "int8": lambda chosen: compression.run(chosen.rounds),
    **SERVING,
    **OPTIMIZING,
}

GROUPS = {"serving": tuple(SERVING), "optimize": tuple(OPTIMIZING)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", help=f"any of {', '.join(SCENARIOS)}, serving, optimize; all when none is given"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each interleaved comparison")
    parser.add_argument("--seconds", type=float, help="length of one measurement; each scenario has its own")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long soak loads the server")
    parser.add_argument("--peers", nargs="*", help="peers compared with; those installed when not given")
    parser.add_argument("--dry", action="store_true", help="print the figures and keep nothing")
    chosen = parser.parse_args()
    names = [one for name in chosen.scenarios or SCENARIOS for one in GROUPS.get(name, (name,))]
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}")
    usable = os.sched_getaffinity(0)
    for name in names:
        print(f"== {name}", flush=True)
        os.sched_setaffinity(0, usable)  # a scenario pins itself; the next one starts from all cores again
        result = SCENARIOS[name](chosen)
        if not chosen.dry:
            keep(name, result)
    if not chosen.dry:
        draw()


def _steps(rounds: int) -> Result:
    from benchmarks.optimize import steps  # torch, which the other scenarios do without

    return steps.run(rounds)


def _seconds(chosen: argparse.Namespace) -> dict[str, float]:
    return {} if chosen.seconds is None else {"seconds": chosen.seconds}


main()
