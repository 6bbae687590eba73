"""``python -m benchmarks [SCENARIO ...]``: run scenarios one after the other and keep their results.

Each result is one JSON file in ``benchmarks/results/`` with its machine, threads, versions, date and spread;
``benchmarks/RESULTS.md`` is drawn from them.
"""

from __future__ import annotations

import argparse

from benchmarks import compression, first_run, serving
from benchmarks.record import draw, keep

SCENARIOS = {"first-run": first_run.run, "int8": compression.run, "serving": serving.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"any of {', '.join(SCENARIOS)}; all when none is given")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each interleaved comparison")
    chosen = parser.parse_args()
    for name in chosen.scenarios or SCENARIOS:
        print(f"== {name}", flush=True)
        keep(name, SCENARIOS[name](chosen.rounds))
    draw()


main()
