"""From one version to a smaller and faster one that keeps its quality bound, or an explanation why not."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from tremplin.errors import OptimizeFailed, PassFailed
from tremplin.machine import Machine
from tremplin.optimize.calibrate import ChannelStatistics, collect_statistics
from tremplin.optimize.judge import Judge
from tremplin.optimize.measure import QUICK, Effort, measure_speed
from tremplin.optimize.passes.dynamic_int8 import DynamicInt8
from tremplin.optimize.passes.graph import Pass, PassResult
from tremplin.optimize.passes.static_int8 import StaticInt8
from tremplin.optimize.quality import default_bounds
from tremplin.optimize.texts import EvaluationTexts
from tremplin.progress import Progress, silent
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.passport import Bound, Quality, Speed
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engine import Engine
from tremplin.serve.engines.catalogue import EngineName, EngineSpec
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

# What is tried by default. "mixed" is smoothing with the outlier channels of feed-forward layers in float;
# "narrow" is the same with weights that overflow on no CPU (docs/decisions/0011); "float2" is "mixed" that leaves
# the two most sensitive products in float as well.
SCHEMES = ("dynamic", "static", "smooth", "mixed", "narrow", "float2")

CALIBRATION_TEXTS = 160
# Of two schemes within this share of each other's throughput, the more faithful one is better.
SAME_SPEED = 0.05


@dataclass(frozen=True)
class Candidate:
    """One scheme, tried."""

    scheme: str
    result: PassResult
    path: Path
    quality: Quality
    speed: Speed

    @property
    def rate(self) -> float:
        """Geometric mean of the throughput over all shapes, in texts per second: no shape dominates."""
        rates = [shape.texts_per_s for shape in self.speed.throughput]
        return float(np.exp(np.mean(np.log(rates)))) if rates else 0.0

    @property
    def fidelity(self) -> float:
        """The first metric's value, the one that orders schemes of equal speed."""
        return self.quality.metrics[0].value


@dataclass(frozen=True)
class Optimisation:
    """How to look for the better version."""

    schemes: Sequence[str] = SCHEMES
    bounds: tuple[Bound, ...] | None = None
    threads: int = 1
    effort: Effort = QUICK
    seed: int = 0


def optimise(
    registry: Registry,
    source: Manifest,
    texts: EvaluationTexts,
    machine: Machine,
    options: Optimisation,
    progress: Progress = silent,
) -> Manifest:
    """Try each scheme on a version, publish the best and return its manifest.

    The best is the fastest of those that keep every bound; when none does, the most faithful is published
    all the same, its passport says which bound it breaks, and it will not be served unless forced by name.
    """
    graph = registry.path(source, MODEL_FILE)
    tokenizer_file = registry.path(source, TOKENIZER_FILE)
    tokenizer = TextTokenizer(tokenizer_file, source.interface)
    with tempfile.TemporaryDirectory(prefix="tremplin-") as folder:
        progress("calibrate", 0.05)
        rows = tokenizer.encode(texts.calibration[:CALIBRATION_TEXTS]).ids
        statistics = collect_statistics(graph, rows, seed=options.seed, threads=machine.cores)
        progress("run the reference", 0.2)
        judge = Judge(_loaded(graph, machine), source.interface, tokenizer, texts)
        trial = _Trial(judge, source, texts, machine, options)
        candidates = []
        for number, scheme in enumerate(options.schemes):
            progress(f"try {scheme}", 0.3 + 0.6 * number / len(options.schemes))
            step = make_pass(scheme, statistics)
            path = Path(folder) / f"{scheme}.onnx"
            candidates.append(trial.candidate(scheme, step.call(graph, path), path))
        best = choose(candidates)
        progress("publish", 0.95)
        manifest = registry.publish(
            _manifest(registry, source, best, candidates),
            {MODEL_FILE: best.path, TOKENIZER_FILE: tokenizer_file},
        )
        registry.record_speed(manifest, best.speed)
    return manifest


def float_parent(registry: Registry, ref: str) -> Manifest:
    """Return the version to start from: the one named, or the newest float32 one of a model.

    Raises OptimizeFailed when the version named is quantized already: its loss could not be told apart.
    """
    named = registry.resolve(ref)
    if "@" not in ref:
        named = next((m for m in reversed(registry.versions(ref)) if m.precision == "fp32"), named)
    if named.interface.task not in (Task.EMBEDDING, Task.CLASSIFICATION):
        raise OptimizeFailed(
            f"{named.ref} does {named.interface.task}; only embedding and classification are optimised today."
        )
    if named.precision != "fp32":
        raise OptimizeFailed(
            f"{named.ref} is {named.precision}; optimising starts from fp32. Name an fp32 version of it."
        )
    return named


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the fastest candidate that keeps its bounds; the most faithful one when none does.

    Among candidates within SAME_SPEED of the fastest, the most faithful wins.
    """
    sound = [candidate for candidate in candidates if not candidate.quality.broken_bounds()]
    if not sound:
        return max(candidates, key=lambda candidate: candidate.fidelity)
    fastest = max(candidate.rate for candidate in sound)
    near = [candidate for candidate in sound if candidate.rate >= (1 - SAME_SPEED) * fastest]
    return max(near, key=lambda candidate: candidate.fidelity)


@dataclass(frozen=True)
class _Trial:
    """What every scheme is tried with."""

    judge: Judge
    source: Manifest
    texts: EvaluationTexts
    machine: Machine
    options: Optimisation

    def candidate(self, scheme: str, result: PassResult, path: Path) -> Candidate:
        """Return quality and speed of a quantized graph."""
        engine = _loaded(path, self.machine, narrow_weights=result.narrow_weights)
        metrics = self.judge.metrics(engine)
        engine.close()
        interface = self.source.interface
        threads, narrow = self.options.threads, result.narrow_weights
        speed = measure_speed(
            EngineSpec(EngineName.ONNX_RUNTIME, str(path), threads, narrow_weights=narrow),
            machine=self.machine,
            max_tokens=interface.max_tokens,
            vocab_size=interface.vocab_size,
            effort=self.options.effort,
        )
        asked = self.options.bounds
        quality = Quality(
            reference=self.source.ref,
            data=self.texts.name,
            data_sha256=self.texts.sha256,
            seed=self.options.seed,
            metrics=metrics,
            bounds=default_bounds(interface.task) if asked is None else asked,
            software={name: installed(name) for name in ("onnxruntime", "onnx", "numpy")},
        )
        return Candidate(scheme, result, path, quality, speed)


def _loaded(path: Path, machine: Machine, *, narrow_weights: bool = False) -> Engine:
    engine = OnnxRuntimeEngine(path, threads=machine.cores, narrow_weights=narrow_weights)
    engine.load()
    return engine


def make_pass(scheme: str, statistics: Mapping[str, ChannelStatistics]) -> Pass:
    """Return the pass of a scheme; raises PassFailed for a name that is none."""
    match scheme:
        case "dynamic":
            return DynamicInt8()
        case "static":
            return StaticInt8(statistics, smooth=False, outlier_channels=0)
        case "smooth":
            return StaticInt8(statistics, smooth=True, outlier_channels=0)
        case "mixed":
            return StaticInt8(statistics, smooth=True, outlier_channels=32)
        case "narrow":
            return StaticInt8(statistics, smooth=True, outlier_channels=32, narrow=True)
        case "float2":
            return StaticInt8(statistics, smooth=True, outlier_channels=32, float_layers=2)
    raise PassFailed(f"There is no scheme {scheme!r}; choose among {', '.join(SCHEMES)}.")


def _manifest(registry: Registry, source: Manifest, best: Candidate, candidates: Sequence[Candidate]) -> Manifest:
    origin = replace(
        source.origin,
        source=source.ref,
        recipe=(*source.origin.recipe, best.result.name),
        notes=best.result.notes,
    )
    return Manifest(
        model=source.model,
        version=registry.next_version(source.model, "int8"),
        precision="int8",
        interface=source.interface,
        origin=origin,
        artefacts=(),
        quality=best.quality,
        narrow_weights=best.result.narrow_weights,
        report={"candidates": [_verdict(candidate, best) for candidate in candidates]},
    )


def _verdict(candidate: Candidate, best: Candidate) -> dict[str, object]:
    """Why a scheme won or lost, for the report."""
    broken = candidate.quality.broken_bounds()
    ratio = candidate.rate / best.rate if best.rate else 0.0
    if candidate is best:
        reason = "misses its bound, yet nothing else came nearer" if broken else "fastest within its bounds"
    elif broken:
        reason = broken[0]
    elif ratio >= 1 - SAME_SPEED:
        reason = "as fast, less faithful"
    else:
        reason = f"{1 - ratio:.0%} slower"
    return {
        "scheme": candidate.result.name,
        "chosen": candidate is best,
        "reason": reason,
        "size_bytes": candidate.path.stat().st_size,
        "texts_per_s": candidate.rate,
        "metrics": [asdict(metric) for metric in candidate.quality.metrics],
    }
