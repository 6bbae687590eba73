"""Versions side by side: the same texts, turn by turn in one process, so that a slow moment spoils all alike.

What is timed is a text in and an answer out: tokenizing and running. Only ratios and figures of one race may be
compared; machines drift by more than what is measured.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tremplin.errors import EngineFailed
from tremplin.registry.manifest import Interface
from tremplin.registry.task import Task
from tremplin.serve.engine import pad
from tremplin.serve.engines.catalogue import EngineSpec
from tremplin.serve.tokenize import TextTokenizer

BATCH_ROWS = 32
TIMEOUT_S = 1800


@dataclass(frozen=True)
class Runner:
    """One that takes part."""

    name: str
    engine: EngineSpec
    tokenizer: Path
    interface: Interface


@dataclass(frozen=True)
class Result:
    """What one was measured at, by round."""

    name: str
    p50_ms: float
    """Median of a text alone, over all rounds."""
    p95_ms: float
    p99_ms: float
    latency_n: int
    alone_per_s: tuple[float, ...]
    """Texts a second, one at a time, by round."""
    batched_per_s: tuple[float, ...]
    """Texts a second in batches of BATCH_ROWS as they come, by round."""

    @property
    def rate_per_s(self) -> float:
        """Median throughput in batches."""
        return float(np.median(self.batched_per_s))

    def against(self, other: Result) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return how many times faster alone and in batches: median, lowest and highest of the rounds' ratios."""
        return _ratios(self.alone_per_s, other.alone_per_s), _ratios(self.batched_per_s, other.batched_per_s)


def race(
    runners: Sequence[Runner], texts: Sequence[str], *, rounds: int = 5, seconds: float = 0.5, seed: int = 0
) -> list[Result]:
    """Return what each runner does on the same texts, in the order given; in a process of its own.

    Each has ``seconds`` for texts alone and as long for batches, in each of ``rounds`` rounds.
    Raises EngineFailed when one cannot run.
    """
    order = json.dumps(
        {
            "runners": [
                {
                    "name": r.name,
                    "engine": asdict(r.engine),
                    "tokenizer": str(r.tokenizer),
                    "interface": asdict(r.interface),
                }
                for r in runners
            ],
            "texts": list(texts),
            "rounds": rounds,
            "seconds": seconds,
            "seed": seed,
        }
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tremplin.optimize.race"],
            input=order, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"Measuring side by side took longer than {TIMEOUT_S} s and was stopped.") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise EngineFailed(f"The versions could not be measured side by side: {reason[0]}")
    return [
        Result(**row | {key: tuple(row[key]) for key in ("alone_per_s", "batched_per_s")})
        for row in json.loads(done.stdout)
    ]


def _race_here(order: dict[str, Any]) -> list[dict[str, object]]:
    texts = list(order["texts"])
    random.Random(order["seed"]).shuffle(texts)
    lanes = [_Lane(given, texts) for given in order["runners"]]
    for lane in lanes:
        lane.alone(0.05)
        lane.batched(0.05)
        lane.forget()
    for number in range(order["rounds"]):
        # Turned around every second round, so that none is always behind the same one.
        for lane in lanes if number % 2 == 0 else reversed(lanes):
            lane.alone(order["seconds"])
            lane.batched(order["seconds"])
    return [lane.result() for lane in lanes]


class _Lane:
    """One runner with its place in the texts."""

    def __init__(self, given: dict[str, Any], texts: list[str]) -> None:
        self._name = given["name"]
        interface = given["interface"]
        self._interface = Interface(
            **interface | {"task": Task(interface["task"]), "labels": tuple(interface["labels"])}
        )
        self._tokenizer = TextTokenizer(Path(given["tokenizer"]), self._interface)
        self._engine = EngineSpec.of(given["engine"]).make()
        self._engine.load()
        self._engine.warm_up()
        self._texts = texts
        self._next = 0
        self.forget()

    def forget(self) -> None:
        """Drop what was measured to warm up, and begin at the first text."""
        self._next = 0
        self._latencies: list[float] = []
        self._alone: list[float] = []
        self._batched: list[float] = []

    def alone(self, seconds: float) -> None:
        begin, count = time.perf_counter(), 0
        while (started := time.perf_counter()) - begin < seconds or not count:
            self._engine.run(pad(self._tokenizer.encode(self._take(1)).ids))
            self._latencies.append((time.perf_counter() - started) * 1e3)
            count += 1
        self._alone.append(count / (time.perf_counter() - begin))

    def batched(self, seconds: float) -> None:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds or not count:
            self._engine.run(pad(self._tokenizer.encode(self._take(BATCH_ROWS)).ids))
            count += BATCH_ROWS
        self._batched.append(count / (time.perf_counter() - begin))

    def result(self) -> dict[str, object]:
        p50, p95, p99 = (float(value) for value in np.percentile(self._latencies, [50, 95, 99]))
        return asdict(
            Result(self._name, p50, p95, p99, len(self._latencies), tuple(self._alone), tuple(self._batched))
        )

    def _take(self, count: int) -> list[str]:
        start = self._next
        self._next = (start + count) % len(self._texts)
        return [self._texts[(start + i) % len(self._texts)] for i in range(count)]


def _ratios(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return float(np.median(ratios)), min(ratios), max(ratios)


if __name__ == "__main__":
    json.dump(_race_here(json.load(sys.stdin)), sys.stdout)
