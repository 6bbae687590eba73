"""The engines alone: text in, vector out, ideal batches of near lengths, no server. Run as a process of its own.

Reads ``{"sets": {name: texts}, "seconds": s, "chosen": {name: [engine, plan, engine alone]}}`` and prints, for
each set, the best rate of any engine and plan of batches. Every engine installed here is tried, and every plan:
"ideal" must not be our own choice of limits. What was found best can be passed in again as ``chosen``, which saves
the search.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tremplin.optimize.ctranslate2 import prepare_version
from tremplin.registry.manifest import TOKENIZER_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.serve.engine import Engine, pad
from tremplin.serve.engines.catalogue import EngineName, engine_of, installed
from tremplin.serve.tokenize import TextTokenizer

SEARCH_S = 0.4
# Batches of so many rows, or of so many padded tokens: the latter suit texts of mixed length.
PLANS = (*(f"{rows} rows" for rows in (1, 2, 4, 8, 16, 32, 64)), *(f"{n} tokens" for n in (256, 512, 1024)))
# An engine that answers something else is not the limit of this model; int8 kernels differ by a few thousandths.
LEAST_COSINE = 0.98


@dataclass(frozen=True)
class Limit:
    """What an engine does with one set of texts."""

    rate: float
    """Texts per second, at best."""
    engine: str
    plan: str
    """How the texts were cut into batches."""
    alone: str
    """The engine that is fastest with a lone text."""
    batch_1: float
    """Its texts per second, one at a time."""
    p50_ms: float
    """Its median latency."""


def measure_raw(
    data: Path,
    version: str,
    sets: Mapping[str, Sequence[str]],
    cores: Sequence[int],
    *,
    seconds: float,
    chosen: Mapping[str, Limit] | None = None,
) -> list[dict[str, Limit]]:
    """Run one process on each of ``cores``, all at the same time, and return what each found.

    ``version`` is the one that the server serves: the limit is that of the same graph.
    """
    asked = {
        "sets": {name: list(texts) for name, texts in sets.items()},
        "seconds": seconds,
        "chosen": {name: [limit.engine, limit.plan, limit.alone] for name, limit in (chosen or {}).items()},
    }
    running = []
    for core in cores:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.raw_engine", str(data), version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 (no thread)
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        running.append(process)
    found = []
    for process in running:
        assert process.stdout is not None
        output = process.stdout.read()
        if process.wait() != 0:
            raise RuntimeError(f"the raw engine ended with status {process.returncode}")
        found.append({name: Limit(**limit) for name, limit in json.loads(output).items()})
    return found


def candidates(registry: Registry, manifest: Manifest, folder: Path) -> dict[str, Callable[[], Engine]]:
    """Return how to make every engine that is installed here for a version, by name; the reference comes first."""
    reference = engine_of(registry, manifest, threads=1)

    def make(name: EngineName) -> Engine:
        prepared = ""
        if name is EngineName.CTRANSLATE2:
            prepared = str(prepare_version(registry, manifest, folder / "ctranslate2"))
        return replace(reference, name=name, prepared=prepared).make()

    names = sorted(installed(), key=lambda name: name is not reference.name)
    return {str(name): lambda name=name: make(name) for name in names}


class RawEngine:
    """One engine with the tokenizer in front of it."""

    def __init__(self, engine: Engine, tokenizer: TextTokenizer) -> None:
        self._engine = engine
        self._tokenizer = tokenizer

    def embed(self, texts: Sequence[str]) -> np.ndarray:  # type: ignore[type-arg]
        batch = pad(self._tokenizer.encode(list(texts)).ids)
        return np.asarray(self._engine.run(batch)["embedding"])

    def rate(self, texts: Sequence[str], plan: str, seconds: float) -> float:
        """Return texts per second, in batches of near lengths cut as ``plan`` says."""
        batches = self._cut(texts, plan)
        done, started = 0, time.perf_counter()
        while True:
            for batch in batches:
                self.embed(batch)
                done += len(batch)
            # Whole passes only: short texts come first, and a part of a pass would flatter.
            if (elapsed := time.perf_counter() - started) > seconds:
                return done / elapsed

    def _cut(self, texts: Sequence[str], plan: str) -> list[list[str]]:
        number, unit = plan.split()
        batches: list[list[str]] = []
        for length, text in sorted((len(self._tokenizer.encode([text]).ids[0]), text) for text in texts):
            rows = len(batches[-1]) + 1 if batches else 1
            if batches and (rows if unit == "rows" else rows * length) <= int(number):
                batches[-1].append(text)
            else:
                batches.append([text])
        return batches

    def p50_ms(self, texts: Sequence[str]) -> float:
        """Return the median latency of texts that come one at a time."""
        latencies = []
        for text in texts:
            started = time.perf_counter()
            self.embed([text])
            latencies.append(time.perf_counter() - started)
        return statistics.median(latencies) * 1e3


def main() -> None:
    asked = json.load(sys.stdin)
    registry = Registry(Path(sys.argv[1]) / "registry")
    model, _, version = sys.argv[2].partition("@")
    manifest = next(m for m in registry.versions(model) if m.version == version)
    tokenizer = TextTokenizer(registry.path(manifest, TOKENIZER_FILE), manifest.interface)
    with tempfile.TemporaryDirectory() as folder:
        makers = candidates(registry, manifest, Path(folder))
        if asked["chosen"].keys() == asked["sets"].keys():
            used = {name for engine, _, alone in asked["chosen"].values() for name in (engine, alone)}
            makers = {name: make for name, make in makers.items() if name in used}
        found = _measure(_opened(makers, tokenizer), asked)
    json.dump(found, sys.stdout)


def _measure(engines: Mapping[str, RawEngine], asked: Any) -> dict[str, dict[str, Any]]:
    found = {}
    for name, texts in asked["sets"].items():
        # An even share of all, so that a search of a fraction of a second sees short ones and long ones.
        rate = next(iter(engines.values())).rate(texts[:8], "1 rows", 0)
        part = texts[:: max(1, len(texts) // round(min(64, max(16, rate * SEARCH_S))))]
        if name in asked["chosen"]:
            engine, plan, alone = asked["chosen"][name]
        else:
            engine, plan = max(
                ((engine, plan) for engine in engines for plan in PLANS),
                key=lambda choice: engines[choice[0]].rate(part, choice[1], SEARCH_S),
            )
            alone = min(engines, key=lambda engine: engines[engine].p50_ms(part))
        found[name] = {
            "rate": engines[engine].rate(texts, plan, asked["seconds"]),
            "engine": engine,
            "plan": plan,
            "alone": alone,
            "batch_1": engines[alone].rate(part, "1 rows", SEARCH_S),
            "p50_ms": engines[alone].p50_ms(part),
        }
    return found


def _opened(makers: Mapping[str, Callable[[], Engine]], tokenizer: TextTokenizer) -> dict[str, RawEngine]:
    """Return the engines that open and answer as the first one does."""
    texts = ["a short question", "a text that is a little longer than the other one, so that one is padded"]
    opened: dict[str, RawEngine] = {}
    expected = None
    for name, make in makers.items():
        try:
            engine = make()
            raw = RawEngine(engine, tokenizer)
            engine.load()
            engine.warm_up()
            found = raw.embed(texts)
        except Exception as error:  # an engine that cannot be had here is no limit; say why and go on
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        expected = found if expected is None else expected
        if float((found * expected).sum(axis=1).min()) < LEAST_COSINE:
            print(f"{name} is left out: it answers something else", file=sys.stderr)
            continue
        opened[name] = raw
    return opened


if __name__ == "__main__":
    main()
