"""All cores: processes, streams or threads, against one raw engine process on each core."""

from __future__ import annotations

import os
import resource
import time

from benchmarks.record import Figure, Result, figure
from benchmarks.server import NO_CACHE, running_server
from benchmarks.serving.load import Run
from benchmarks.serving.raw_engine import Limit, measure_raw
from benchmarks.serving.stage import Rounds, staged
from benchmarks.texts import long_texts, short_texts

SETS = {"SHORT": 128, "LONG": 32}


def options(cores: int) -> dict[str, tuple[str, ...]]:
    """Return the ways to use some cores, as the command line says them."""
    return {
        f"--workers {cores}": ("--workers", f"{cores}", "--threads", "1"),
        f"--streams {cores}": ("--streams", f"{cores}", "--threads", "1"),
        f"--threads {cores}": ("--threads", f"{cores}"),
    }


def run(rounds: int, seconds: float = 5.0) -> Result:
    """Measure each way to use all cores in turn, with the raw engines beside them."""
    short_name, short = short_texts(512)
    long_name, long = long_texts(64)
    sets = {"SHORT": short, "LONG": long}
    found = Rounds()
    chosen: dict[str, Limit] = {}
    missing: list[str] = []
    cores = len(os.sched_getaffinity(0))
    with staged(all_cores=True) as stage:
        for number in range(rounds):
            raw = measure_raw(stage.data, stage.version, sets, stage.server_cores, seconds=seconds, chosen=chosen)
            chosen = raw[0]
            for name in sets:
                found.add(f"raw {name}", sum(one[name].rate for one in raw))
            ways = list(options(cores).items())
            for way, arguments in ways[:: -1 if number % 2 else 1]:
                if way in missing:
                    continue
                try:
                    with running_server(
                        stage.data, *arguments, cores=stage.server_cores, environment=NO_CACHE
                    ) as server:
                        for name, texts in sets.items():
                            wire = [server.request(text) for text in texts]
                            spent, started = _client_s(), time.perf_counter()
                            result = server.closed_loop(wire, SETS[name], seconds=seconds)
                            took = time.perf_counter() - started
                            _keep(found, way, name, result, (_client_s() - spent) / took)
                except RuntimeError as error:
                    print(f"{way} cannot be had: {error}", flush=True)
                    missing.append(way)
    return Result(
        scenario="Serving: all cores",
        setting=(
            f"{cores} cores, shared by the server and its client; cache off; {stage.version}. "
            f"Raw: one process with one thread on each core, nothing else running. "
            f"SHORT = {short_name}, 128 connections; LONG = {long_name}, 32. "
            f"{rounds} rounds of {seconds:g} s."
        ),
        figures=_figures([way for way in options(cores) if way not in missing], found),
        notes=[
            "The client takes its time from the same cores, so the shares understate the server.",
            *(f"The server did not start with `{way}`." for way in missing),
        ],
    )


def _keep(found: Rounds, way: str, name: str, result: Run, client_cores: float) -> None:
    found.add(f"{way} {name}", result.rate)
    found.add(f"{way} {name} p99", result.latency_s(99) * 1e3)
    found.add(f"{way} {name} client", client_cores)
    print(f"{way} {name}: {result.summary()}; client {client_cores:.2f} cores", flush=True)


def _figures(ways: list[str], found: Rounds) -> list[Figure]:
    figures = []
    for name in SETS:
        if ways:
            shares = [found.ratio(f"{way} {name}", f"raw {name}") for way in ways]
            # Of one way throughout: the best of each round would pick the luckiest.
            best = max(shares, key=lambda share: sorted(share)[len(share) // 2])
            figures.append(figure(f"{name}: best way / raw engines together", best, "", at_least=0.90))
        for way in ways:
            figures += [
                figure(f"{name}: {way} / raw engines together", found.ratio(f"{way} {name}", f"raw {name}"), ""),
                figure(f"{name}: {way}", found[f"{way} {name}"], "/s"),
                figure(f"{name}: {way}, p99", found[f"{way} {name} p99"], "ms"),
                figure(f"{name}: {way}, cores taken by the client", found[f"{way} {name} client"], ""),
            ]
        figures.append(figure(f"{name}: raw engines together", found[f"raw {name}"], "/s"))
    return figures


def _client_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
