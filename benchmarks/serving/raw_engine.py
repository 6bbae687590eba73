"""The engine alone: text in, vector out, ideal batches. Prints its rates as JSON; run by ``serving``."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from tremplin.machine import read_machine
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE
from tremplin.registry.store import Registry
from tremplin.serve.engine import pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

SECONDS = 2.0
# Every size is tried and the best kept: "ideal" must not be our own choice of limits.
SIZES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    sets = json.load(sys.stdin)
    registry = Registry(Path(sys.argv[1]) / "registry")
    manifest = next(m for m in reversed(registry.versions("minilm")) if m.precision == "int8")
    tokenizer = TextTokenizer(registry.path(manifest, TOKENIZER_FILE), manifest.interface)
    engine = OnnxRuntimeEngine(registry.path(manifest, MODEL_FILE), threads=1)
    engine.load()
    engine.warm_up()

    def sweep(texts: list[str], size: int, seconds: float) -> float:
        ordered = sorted(texts, key=lambda text: len(tokenizer.encode([text]).rows[0]))
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            for start in range(0, len(ordered), size):
                engine.run(pad(tokenizer.encode(ordered[start : start + size]).rows))
                done += len(ordered[start : start + size])
                if time.perf_counter() - started > seconds:
                    break
        elapsed = time.perf_counter() - started
        return done / elapsed

    found = {}
    for name, texts in sets.items():
        best = max(SIZES, key=lambda size: sweep(texts, size, 0.4))
        found[name] = sweep(texts, best, SECONDS)
        found[f"{name} batch"] = best
    latencies = []
    for text in sets["short"][:400]:
        started = time.perf_counter()
        engine.run(pad(tokenizer.encode([text]).rows))
        latencies.append(time.perf_counter() - started)
    found["p50_ms"] = statistics.median(latencies) * 1e3
    found["cores"] = read_machine().cores
    json.dump(found, sys.stdout)


main()
