"""From one version to a smaller and faster one that keeps its quality bound, or an explanation why not."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import OptimizeFailed, PassFailed
from tremplin.machine import Machine
from tremplin.optimize.calibrate import ChannelStatistics, collect_statistics
from tremplin.optimize.measure import QUICK, Effort, measure_speed
from tremplin.optimize.passes.dynamic_int8 import DynamicInt8
from tremplin.optimize.passes.graph import Pass, PassResult
from tremplin.optimize.passes.static_int8 import StaticInt8
from tremplin.optimize.quality import (
    batch_dependence,
    classification_metrics,
    default_bounds,
    embedding_metrics,
)
from tremplin.optimize.run_graph import run_rows
from tremplin.optimize.texts import EvaluationTexts
from tremplin.progress import Progress, silent
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.passport import Bound, Metric, Quality, Speed
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engine import SERVED_OUTPUT, Engine
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
class Outputs:
    """What a graph answers on the evaluation texts and the passages."""

    texts: NDArray[np.float32]
    passages: NDArray[np.float32] | None


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
        judge = _Judge(graph, source, tokenizer, texts, machine, options)
        candidates = []
        for number, scheme in enumerate(options.schemes):
            progress(f"try {scheme}", 0.3 + 0.6 * number / len(options.schemes))
            step = make_pass(scheme, statistics)
            path = Path(folder) / f"{scheme}.onnx"
            candidates.append(judge.candidate(scheme, step.call(graph, path), path))
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


@dataclass
class _Judge:
    """Measures candidates against one reference, whose answers are computed once."""

    graph: Path
    source: Manifest
    tokenizer: TextTokenizer
    texts: EvaluationTexts
    machine: Machine
    options: Optimisation

    def __post_init__(self) -> None:
        is_embedding = self.source.interface.task is Task.EMBEDDING
        self._output = SERVED_OUTPUT[self.source.interface.task]
        self._rows = self.tokenizer.encode(self.texts.evaluation).ids
        self._passages = self.tokenizer.encode(self.texts.passages).ids if is_embedding else []
        self._reference = self._answers(self._engine(self.graph))

    def candidate(self, scheme: str, result: PassResult, path: Path) -> Candidate:
        """Return quality and speed of a quantized graph."""
        engine = self._engine(path, narrow_weights=result.narrow_weights)
        metrics = (
            *self._compare(self._answers(engine)),
            batch_dependence(engine, self._rows, self._output),
        )
        engine.close()
        interface = self.source.interface
        speed = measure_speed(
            EngineSpec(
                EngineName.ONNX_RUNTIME,
                str(path),
                self.options.threads,
                narrow_weights=result.narrow_weights,
            ),
            machine=self.machine,
            max_tokens=interface.max_tokens,
            vocab_size=interface.vocab_size,
            effort=self.options.effort,
        )
        quality = Quality(
            reference=self.source.ref,
            data=self.texts.name,
            data_sha256=self.texts.sha256,
            seed=self.options.seed,
            metrics=metrics,
            bounds=self._bounds(),
            software={name: installed(name) for name in ("onnxruntime", "onnx", "numpy")},
        )
        return Candidate(scheme, result, path, quality, speed)

    def _bounds(self) -> tuple[Bound, ...]:
        asked = self.options.bounds
        return default_bounds(self.source.interface.task) if asked is None else asked

    def _engine(self, path: Path, *, narrow_weights: bool = False) -> Engine:
        engine = OnnxRuntimeEngine(path, threads=self.machine.cores, narrow_weights=narrow_weights)
        engine.load()
        return engine

    def _answers(self, engine: Engine) -> Outputs:
        texts = np.stack(run_rows(engine, self._rows, self._output))
        if not self._passages:
            return Outputs(texts, None)
        return Outputs(texts, np.stack(run_rows(engine, self._passages, self._output)))

    def _compare(self, answers: Outputs) -> list[Metric]:
        reference = self._reference
        if reference.passages is not None and answers.passages is not None:
            return embedding_metrics(reference.texts, answers.texts, reference.passages, answers.passages)
        return classification_metrics(
            reference.texts, answers.texts, self.source.interface.labels, self.texts.labels
        )


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
