"""int8 against fp32: size, throughput, faithfulness; every scheme side by side, interleaved.

Judged on texts that calibration never saw: CLINC150 test queries for the vectors and the speed, and each query's
nearest neighbour among other queries and SciFact abstracts for the retrieval agreement.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import Figure, Result, figure
from benchmarks.texts import long_texts, short_texts
from tremplin.bootstrap import first_run_schemes
from tremplin.machine import read_machine
from tremplin.optimize.bundled import import_bundled
from tremplin.optimize.calibrate import collect_statistics
from tremplin.optimize.optimiser import CALIBRATION_TEXTS, SCHEMES, make_pass
from tremplin.optimize.run_graph import run_rows
from tremplin.optimize.texts import bundled_texts
from tremplin.registry.manifest import Interface
from tremplin.serve.engine import pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

SHAPES = {
    "short b1": (1, 96),
    "short b8": (8, 256),
    "short b32": (32, 512),
    "long b1": (1, 12),
    "long b4": (4, 24),
}


def run(rounds: int) -> Result:
    """Measure every scheme against fp32."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    short_name, short = short_texts(1024)
    long_name, long = long_texts(128)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        imported = import_bundled(folder / "fp32")
        interface = Interface(imported.task, imported.max_tokens, imported.vocab_size)
        tokenizer = TextTokenizer(imported.tokenizer_path, interface)
        calibration = tokenizer.encode(bundled_texts().calibration[:CALIBRATION_TEXTS]).ids
        statistics = collect_statistics(imported.onnx_path, calibration, threads=1)
        paths = {"fp32": imported.onnx_path}
        engines = {"fp32": OnnxRuntimeEngine(imported.onnx_path, threads=1)}
        for scheme in SCHEMES:
            paths[scheme] = folder / f"{scheme}.onnx"
            made = make_pass(scheme, statistics).call(imported.onnx_path, paths[scheme])
            engines[scheme] = OnnxRuntimeEngine(paths[scheme], threads=1, narrow_weights=made.narrow_weights)
        for engine in engines.values():
            engine.load()
        rows = {"short": tokenizer.encode(short).ids, "long": tokenizer.encode(long).ids}
        rates = _rates(engines, rows, rounds)
        figures: list[Figure] = []
        reference = _vectors(engines["fp32"], rows)
        kept = first_run_schemes(read_machine())[0]
        for scheme in SCHEMES:
            figures += _against(
                scheme, scheme == kept, reference, _vectors(engines[scheme], rows), rates,
                paths[scheme].stat().st_size / paths["fp32"].stat().st_size,
            )  # fmt: skip
        return Result(
            scenario="int8 against fp32",
            setting=(
                f"One thread on one core; 1,024 {short_name} and 128 {long_name}; calibrated on the sentences "
                f"that ship; {rounds} interleaved rounds; batches of near lengths. The first run tries `{kept}`."
            ),
            figures=figures,
        )


def _rates(engines: dict, rows: dict, rounds: int) -> dict[str, dict[str, list[float]]]:  # type: ignore[type-arg]
    """Texts per second of each scheme for each shape, one value a round."""
    rates: dict[str, dict[str, list[float]]] = {scheme: {} for scheme in engines}
    for _ in range(rounds):
        for shape, (size, count) in SHAPES.items():
            chosen = sorted(rows[shape.split()[0]][:count], key=len)
            batches = [pad(chosen[start : start + size]) for start in range(0, count, size)]
            for scheme, engine in engines.items():
                started = time.perf_counter()
                for batch in batches:
                    engine.run(batch)
                rates[scheme].setdefault(shape, []).append(count / (time.perf_counter() - started))
    return rates


def _vectors(engine: OnnxRuntimeEngine, rows: dict) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return tuple(np.stack(run_rows(engine, rows[name], "embedding")) for name in ("short", "long"))  # type: ignore[return-value]


def _against(scheme: str, chosen: bool, reference, candidate, rates, size: float) -> list[Figure]:  # type: ignore[no-untyped-def]
    before, after = np.concatenate(reference), np.concatenate(candidate)
    cosines = (before * after).sum(axis=1)
    n = len(reference[0])

    def nearest(vectors: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        scores = vectors[:n] @ vectors.T
        scores[np.arange(n), np.arange(n)] = -2
        return scores.argmax(axis=1)

    agreement = float((nearest(before) == nearest(after)).mean())
    ratio = {
        shape: [a / b for a, b in zip(rates[scheme][shape], rates["fp32"][shape], strict=True)] for shape in SHAPES
    }
    return [
        figure(f"{scheme}: size / fp32", [size], "", at_most=0.3 if chosen else None),
        figure(f"{scheme}: mean cosine", [float(cosines.mean())], "", at_least=0.995 if chosen else None),
        figure(f"{scheme}: minimum cosine", [float(cosines.min())], "", at_least=0.98 if chosen else None),
        figure(f"{scheme}: top-1 retrieval agreement", [agreement], "", at_least=0.97 if chosen else None),
        *(
            figure(
                f"{scheme}: throughput / fp32, {shape}", values, "x",
                at_least=1.8 if chosen and shape.startswith("short") else None,
            )
            for shape, values in ratio.items()
        ),
    ]  # fmt: skip
