"""The server against its own engine: what HTTP, queue and batching cost.

Both run on core 0 with one engine thread; the client runs on core 1. The raw engine is fed with ideal batches:
text in, vector out, sorted by length, of the size measured best. Rounds alternate, so that both see the same
machine; what counts is the ratio within a round.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.first_run import bootstrapped
from benchmarks.record import Result, figure
from benchmarks.server import closed_loop, request_bytes, running_server
from benchmarks.texts import long_texts, short_texts

SECONDS = 4.0


def run(rounds: int) -> Result:
    """Measure throughput at saturation and the latency added to a lone request."""
    short_name, short = short_texts(512)
    long_name, long = long_texts(64)
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {client_core})
    found: dict[str, list[float]] = {
        name: [] for name in ("short raw", "short", "long raw", "long", "raw p50", "p50", "added", "p99/p50")
    }
    with tempfile.TemporaryDirectory() as folder:
        data = bootstrapped(Path(folder))
        with running_server(data, "--threads", "1", cores=[server_core]) as server:
            sets = {"short": short, "long": long}
            wire = {
                name: [request_bytes(server.host, server.key, text) for text in texts]
                for name, texts in sets.items()
            }
            for _ in range(rounds):
                raw = _raw(data, sets, server_core)
                alone = asyncio.run(closed_loop(server.host, server.port, wire["short"], 1, seconds=SECONDS))[1]
                p50 = statistics.median(alone) * 1e3
                found["raw p50"].append(raw["p50_ms"])
                found["p50"].append(p50)
                found["added"].append(p50 - raw["p50_ms"])
                for name, connections in (("short", 128), ("long", 32)):
                    rate, latencies = asyncio.run(
                        closed_loop(server.host, server.port, wire[name], connections, seconds=SECONDS)
                    )
                    found[f"{name} raw"].append(raw[name])
                    found[name].append(rate)
                    if name == "short":
                        cuts = statistics.quantiles(latencies, n=100)
                        found["p99/p50"].append(cuts[98] / cuts[49])
    ratio = {name: [a / b for a, b in zip(found[name], found[f"{name} raw"], strict=True)] for name in sets}
    return Result(
        scenario="Serving: HTTP against the raw engine",
        setting=(
            f"Server and raw engine on one core, one engine thread, client on another core; SHORT = {short_name} "
            f"at 128 connections, LONG = {long_name} at 32; minilm int8; {rounds} alternating rounds "
            f"of {SECONDS:g} s."
        ),
        figures=[
            figure("share of the raw engine at saturation, SHORT", ratio["short"], "", at_least=0.85),
            figure("share of the raw engine at saturation, LONG", ratio["long"], "", at_least=0.85),
            figure("added p50 at one connection", found["added"], "ms", at_most=1.5),
            figure("p50 at one connection", found["p50"], "ms"),
            figure("p50 of the raw engine, one text", found["raw p50"], "ms"),
            figure("requests per second, SHORT, 128 connections", found["short"], "/s"),
            figure("texts per second of the raw engine, SHORT", found["short raw"], "/s"),
            figure("requests per second, LONG, 32 connections", found["long"], "/s"),
            figure("texts per second of the raw engine, LONG", found["long raw"], "/s"),
            figure("p99 / p50 at 128 connections, SHORT", found["p99/p50"], ""),
        ],
    )


def _raw(data: Path, sets: dict[str, list[str]], core: int) -> dict[str, float]:
    """Run the engine alone in a process of its own on the server's core."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.raw_engine", str(data)],
        input=json.dumps(sets), capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    return json.loads(done.stdout)
