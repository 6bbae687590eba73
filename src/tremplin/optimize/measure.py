"""Speed of a version on this machine, measured in a process of its own.

A process of its own, because peak memory is a property of a process, and because what else this one has
loaded would change both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tremplin.errors import EngineFailed
from tremplin.machine import Machine
from tremplin.registry.passport import Speed, Throughput

# Shapes (rows, tokens): what a sentence service sees, from a lone short text to a batch of long ones.
BRIEF_SHAPES = ((1, 16), (4, 16), (16, 16), (1, 64), (4, 64), (1, 128))
QUICK_SHAPES = ((1, 16), (4, 16), (16, 16), (32, 16), (1, 64), (4, 64), (1, 128), (4, 128))
FULL_SHAPES = (
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
    model: Path, *, machine: Machine, threads: int, max_tokens: int, vocab_size: int, effort: Effort = QUICK
) -> Speed:
    """Return load time, peak memory, latency and throughput; raises EngineFailed when the graph cannot run."""
    shapes = [(rows, tokens) for rows, tokens in effort.shapes if tokens <= max_tokens]
    order = json.dumps(
        {
            "model": str(model),
            "threads": threads,
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
    return Speed(
        machine=machine,
        threads=threads,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rounds=effort.rounds,
        latency_tokens=LATENCY_TOKENS,
        latency_n=effort.latency_runs,
        software={name: version(name) for name in SOFTWARE},
        engine=found["engine"],
        load_ms=found["load_ms"],
        peak_memory_bytes=found["peak_memory_bytes"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        throughput=tuple(Throughput(**row) for row in found["throughput"]),
    )


def _measure_here(order: dict[str, object]) -> dict[str, object]:
    """Measure in this process; ``order`` is what ``measure_speed`` wrote."""
    from tremplin.serve.engine import TokenBatch
    from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

    generator = np.random.default_rng(0)
    vocab_size = int(str(order["vocab_size"]))

    def batch(rows: int, tokens: int) -> TokenBatch:
        ids = generator.integers(0, vocab_size, (rows, tokens), dtype=np.int64)
        return TokenBatch(ids, np.ones_like(ids))

    started = time.perf_counter()
    engine = OnnxRuntimeEngine(Path(str(order["model"])), threads=int(str(order["threads"])))
    engine.load()
    load_ms = (time.perf_counter() - started) * 1e3
    engine.warm_up()

    one = batch(1, LATENCY_TOKENS)
    latencies = []
    for _ in range(int(str(order["latency_runs"]))):
        started = time.perf_counter()
        engine.run(one)
        latencies.append((time.perf_counter() - started) * 1e3)

    throughput = []
    for rows, tokens in order["shapes"]:  # type: ignore[attr-defined]
        tokens_batch = batch(rows, tokens)
        engine.run(tokens_batch)
        rates = []
        for _ in range(int(str(order["rounds"]))):
            count, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < float(str(order["seconds_per_round"])):
                engine.run(tokens_batch)
                count += 1
            elapsed = time.perf_counter() - started
            rates.append(rows * count / elapsed)
        throughput.append(
            {
                "rows": rows,
                "tokens": tokens,
                "texts_per_s": float(np.median(rates)),
                "low": min(rates),
                "high": max(rates),
            }
        )
    return {
        "engine": engine.name,
        "load_ms": load_ms,
        "peak_memory_bytes": _peak_memory_bytes(),
        "p50_ms": float(np.percentile(latencies, 50)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "throughput": throughput,
    }


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
