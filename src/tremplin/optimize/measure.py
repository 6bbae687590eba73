"""Speed of a version on this machine, measured in a process of its own.

A process of its own, because peak memory is a property of a process, and because what else this one has
loaded would change both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tremplin.errors import EngineFailed
from tremplin.machine import Machine
from tremplin.registry.passport import Speed, Throughput
from tremplin.serve.costs import fit
from tremplin.serve.engine import Engine, TokenBatch
from tremplin.serve.engines.catalogue import EngineSpec

# Shapes (rows, tokens): what a sentence service sees, from a lone short text to a batch of long ones.
BRIEF_SHAPES = (
    (1, 8), (1, 16), (4, 16), (16, 16), (32, 16), (1, 64), (4, 64), (1, 128), (4, 128), (1, 256),
)  # fmt: skip
QUICK_SHAPES = (
    (1, 8), (1, 16), (2, 16), (4, 16), (8, 16), (16, 16), (32, 16), (1, 32), (4, 32), (16, 32),
    (1, 64), (4, 64), (1, 128), (2, 128), (4, 128), (1, 256), (2, 256),
)  # fmt: skip
FULL_SHAPES = (
    (1, 8), (4, 8), (16, 8), (64, 8),
    (1, 16), (2, 16), (4, 16), (8, 16), (16, 16), (32, 16), (64, 16),
    (1, 32), (4, 32), (16, 32), (32, 32),
    (1, 64), (2, 64), (4, 64), (8, 64), (16, 64),
    (1, 128), (2, 128), (4, 128), (8, 128),
    (1, 256), (2, 256), (4, 256),
)  # fmt: skip

LATENCY_TOKENS = 16
SOFTWARE = ("onnxruntime", "numpy", "tokenizers", "onnx")
TIMEOUT_S = 600


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    shapes: tuple[tuple[int, int], ...]
    rounds: int
    seconds_per_round: float
    latency_runs: int


BRIEF = Effort(BRIEF_SHAPES, rounds=3, seconds_per_round=0.02, latency_runs=60)
QUICK = Effort(QUICK_SHAPES, rounds=3, seconds_per_round=0.02, latency_runs=100)
FULL = Effort(FULL_SHAPES, rounds=7, seconds_per_round=0.1, latency_runs=500)


def measure_speed(
    engine: EngineSpec, *, machine: Machine, max_tokens: int, vocab_size: int, effort: Effort = QUICK
) -> Speed:
    """Return load time, peak memory, latency, throughput by shape and the costs learned from it.

    Raises EngineFailed when the graph cannot run.
    """
    shapes = [(rows, tokens) for rows, tokens in effort.shapes if tokens <= max_tokens]
    order = json.dumps(
        {
            "engine": asdict(engine),
            "vocab_size": vocab_size,
            "shapes": shapes,
            "rounds": effort.rounds,
            "seconds_per_round": effort.seconds_per_round,
            "latency_runs": effort.latency_runs,
        }
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tremplin.optimize.measure"],
            input=order, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"Measuring took longer than {TIMEOUT_S} s and was stopped.") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise EngineFailed(f"The version could not be measured: {reason[0]}")
    found = json.loads(done.stdout)
    throughput = tuple(Throughput(**row) for row in found["throughput"])
    return Speed(
        machine=machine,
        threads=engine.threads,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rounds=effort.rounds,
        latency_tokens=LATENCY_TOKENS,
        latency_n=effort.latency_runs,
        software={name: version(name) for name in dict.fromkeys((*SOFTWARE, engine.name.package))},
        engine=found["engine"],
        load_ms=found["load_ms"],
        peak_memory_bytes=found["peak_memory_bytes"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        throughput=throughput,
        costs=fit(throughput),
    )


def _measure_here(order: dict[str, Any]) -> dict[str, object]:
    """Measure in this process; ``order`` is what ``measure_speed`` wrote."""
    generator = np.random.default_rng(0)

    def batch(rows: int, tokens: int) -> TokenBatch:
        ids = generator.integers(0, order["vocab_size"], (rows, tokens), dtype=np.int64)
        return TokenBatch(ids, np.ones_like(ids))

    started = time.perf_counter()
    engine = EngineSpec.of(order["engine"]).make()
    engine.load()
    load_ms = (time.perf_counter() - started) * 1e3
    engine.warm_up()

    one = batch(1, LATENCY_TOKENS)
    latencies = []
    for _ in range(order["latency_runs"]):
        started = time.perf_counter()
        engine.run(one)
        latencies.append((time.perf_counter() - started) * 1e3)
    return {
        "engine": engine.name,
        "load_ms": load_ms,
        "p50_ms": float(np.percentile(latencies, 50)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "throughput": _sweep(engine, {tuple(shape): batch(*shape) for shape in order["shapes"]}, order),
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def _sweep(engine: Engine, batches: dict[tuple[int, int], TokenBatch], order: dict[str, Any]) -> list[object]:
    """Return the throughput of each shape. Rounds go over all shapes, so that a slow moment spoils no shape."""
    rates: dict[tuple[int, int], list[float]] = {shape: [] for shape in batches}
    for batch in batches.values():
        engine.run(batch)
    for _ in range(order["rounds"]):
        for shape, batch in batches.items():
            count, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < order["seconds_per_round"] or not count:
                engine.run(batch)
                count += 1
            rates[shape].append(shape[0] * count / elapsed)
    return [
        {"rows": rows, "tokens": tokens, "texts_per_s": float(np.median(of_shape)), "low": min(of_shape),
         "high": max(of_shape)}
        for (rows, tokens), of_shape in rates.items()
    ]  # fmt: skip


def _peak_memory_bytes() -> int:
    """Peak resident memory of this program.

    From /proc where there is one: what getrusage tells also counts the parent's memory before the exec.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    json.dump(_measure_here(json.load(sys.stdin)), sys.stdout)
