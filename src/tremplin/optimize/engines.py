"""Which engines run a version on this machine: measured, judged, and chosen for each shape of batch.

The version's quality was proven with ONNX Runtime. Another engine is another arithmetic: it is taken only where
its own answers, on the same texts, keep the version's bounds on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from tremplin.errors import MissingExtra, StartFailed, TremplinError
from tremplin.machine import Machine
from tremplin.optimize.judge import judge_engine
from tremplin.optimize.measure import Effort, measure_speed
from tremplin.optimize.quality import default_bounds
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.passport import BatchCosts, Bound, Metric, Speed
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.costs import CostModel
from tremplin.serve.engines.catalogue import ON_A_GPU, EngineName, EngineSpec, engine_of, installed

AUTO = "auto"

# An answer must not depend on its neighbours through the engine that their batch goes to: only engines whose
# answers agree as closely as this are used side by side. On unit vectors .01 is a cosine of .9999.
MIXABLE = 0.01
# An engine that is never faster by this share is not worth its memory.
WORTH_IT = 0.05
# The share of the machine's memory that one engine's process may need at its peak.
MEMORY_SHARE = 0.25

# Shapes that are compared, rows and tokens: from a lone short text to batches as large as they get.
SHAPES = ((1, 8), (1, 16), (4, 16), (8, 16), (32, 16), (1, 64), (4, 64), (1, 128), (1, 256))

log = structlog.get_logger()


@dataclass(frozen=True)
class Verdict:
    """What was decided of one engine, and why."""

    engine: EngineName
    is_kept: bool
    reason: str
    speed: Speed | None = None


@dataclass(frozen=True)
class EngineChoice:
    """What runs a version."""

    specs: tuple[EngineSpec, ...]
    costs: tuple[BatchCosts, ...]
    """One for each spec."""
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Candidate:
    """An engine that keeps the version's bounds, with its evidence."""

    spec: EngineSpec
    speed: Speed

    def seconds(self, shape: tuple[int, int]) -> float:
        """Return what a batch of this shape takes, by the learned costs: noise of one shape decides nothing."""
        return CostModel(self.speed.costs).batch_s(*shape)


def choose_engines(
    registry: Registry,
    manifest: Manifest,
    machine: Machine,
    *,
    wanted: str,
    threads: int,
    folder: Path,
    effort: Effort,
) -> EngineChoice:
    """Return the engines for a version; measures and judges what was not yet, and keeps it in the passport.

    ``wanted`` is ``auto`` or an engine's name, ``folder`` keeps what engines need beside the graph. Raises
    MissingExtra or StartFailed when the engine that was named cannot be had or misses the version's bounds.
    """
    proven = engine_of(registry, manifest, threads=threads)
    if wanted not in (AUTO, EngineName.ONNX_RUNTIME):
        return _named(registry, manifest, machine, EngineName(wanted), proven, folder, effort)
    base = Candidate(proven, speed_of(registry, manifest, machine, proven, effort))
    verdicts: list[Verdict] = []
    candidates: list[Candidate] = []
    for name in installed() if wanted == AUTO else ():
        if name is EngineName.ONNX_RUNTIME:
            continue
        try:
            spec = _spec(registry, manifest, name, proven, folder)
            speed = _judged(registry, manifest, machine, spec, proven, effort)
        except TremplinError as error:
            verdicts.append(Verdict(name, is_kept=False, reason=str(error)))
            continue
        reason = _objection(manifest, speed, machine)
        if reason:
            verdicts.append(Verdict(name, is_kept=False, reason=reason, speed=speed))
        else:
            candidates.append(Candidate(spec, speed))
    kept, more = choose(base, candidates)
    return EngineChoice(
        tuple(candidate.spec for candidate in kept),
        tuple(candidate.speed.costs for candidate in kept),
        (*verdicts, *more),
    )


def speed_of(registry: Registry, manifest: Manifest, machine: Machine, spec: EngineSpec, effort: Effort) -> Speed:
    """Return the evidence of speed of an engine on this machine, measured now when there is none yet."""
    found = registry.speed(manifest, machine.id, spec.threads, spec.name)
    if found is not None:
        return found
    log.info("measuring speed on this machine", version=manifest.ref, engine=spec.name, threads=spec.threads)
    interface = manifest.interface
    speed = measure_speed(
        spec, machine=machine, max_tokens=interface.max_tokens, vocab_size=interface.vocab_size, effort=effort
    )
    registry.record_speed(manifest, speed, spec.name)
    return speed


def _named(
    registry: Registry,
    manifest: Manifest,
    machine: Machine,
    name: EngineName,
    proven: EngineSpec,
    folder: Path,
    effort: Effort,
) -> EngineChoice:
    spec = _spec(registry, manifest, name, proven, folder)
    speed = _judged(registry, manifest, machine, spec, proven, effort)
    broken = _broken(manifest, speed.agreement)
    if broken:
        raise StartFailed(
            f"{manifest.ref} misses its quality bound with {name}: {'; '.join(broken)}. "
            "Serve it with --engine auto, or --engine onnxruntime."
        )
    return EngineChoice((spec,), (speed.costs,), (Verdict(name, is_kept=True, reason="named", speed=speed),))


def _spec(
    registry: Registry, manifest: Manifest, name: EngineName, proven: EngineSpec, folder: Path
) -> EngineSpec:
    """Return how the engine is made for the version; prepares what it reads. Raises what stands in its way."""
    if name not in installed():
        how = (
            "pip install onnxruntime-gpu in the place of onnxruntime"
            if name in ON_A_GPU
            else (f"pip install 'tremplin[{name}]'")
        )
        raise MissingExtra(f"{name} is not installed: {how}")
    spec = replace(proven, name=name)
    place = folder / manifest.artefact(MODEL_FILE).sha256[:16] / name
    if name is EngineName.TENSORRT:
        place.mkdir(parents=True, exist_ok=True)
        return replace(spec, prepared=str(place))
    if name is EngineName.CTRANSLATE2:
        from tremplin.optimize.ctranslate2 import prepare_version

        return replace(spec, prepared=str(prepare_version(registry, manifest, place)))
    return spec


def _judged(
    registry: Registry,
    manifest: Manifest,
    machine: Machine,
    spec: EngineSpec,
    proven: EngineSpec,
    effort: Effort,
) -> Speed:
    speed = speed_of(registry, manifest, machine, spec, effort)
    if speed.agreement:
        return speed
    log.info("judging an engine on this machine", version=manifest.ref, engine=spec.name)
    metrics = judge_engine(
        spec,
        proven,
        _reference(registry, manifest, proven),
        manifest.interface,
        registry.path(manifest, TOKENIZER_FILE),
    )
    judged = replace(speed, agreement=metrics)
    registry.record_speed(manifest, judged, spec.name)
    return judged


def _reference(registry: Registry, manifest: Manifest, proven: EngineSpec) -> EngineSpec:
    """Return what answers as the version should: its float32 ancestor for an encoder, else the version itself.

    A trained head was judged by labels, on the very encoder it sits on.
    """
    if manifest.interface.task is not Task.EMBEDDING:
        return proven
    from tremplin.optimize.ctranslate2 import float_ancestor

    return engine_of(registry, float_ancestor(registry, manifest), threads=proven.threads)


def _broken(manifest: Manifest, metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Return the bounds that an engine's answers break: those the version declares, else the usual ones."""
    measured = {metric.name for metric in metrics}
    declared = [bound for bound in manifest.quality.bounds if bound.metric in measured]
    bounds: Sequence[Bound] = declared or [
        bound for bound in default_bounds(manifest.interface.task) if bound.metric in measured
    ]
    return replace(manifest.quality, metrics=tuple(metrics), bounds=tuple(bounds)).broken_bounds()


def _objection(manifest: Manifest, speed: Speed, machine: Machine) -> str:
    broken = _broken(manifest, speed.agreement)
    if broken:
        return f"misses the version's bound: {broken[0]}"
    if speed.peak_memory_bytes > MEMORY_SHARE * machine.memory_bytes:
        return f"needs {speed.peak_memory_bytes / 1e6:.0f} MB, more than {MEMORY_SHARE:.0%} of the memory here"
    return ""


def choose(base: Candidate, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Verdict]]:
    """Return the engines to use: those that may be mixed and win somewhere, or one that beats them together."""
    mixable = [base, *(one for one in candidates if _difference(one) <= MIXABLE)]
    best = {shape: min(one.seconds(shape) for one in mixable) for shape in SHAPES}
    kept = [
        one
        for one in mixable
        if any(
            one.seconds(shape) <= best[shape]
            and one.seconds(shape) <= (1 - WORTH_IT) * min(
                other.seconds(shape) for other in mixable if other is not one
            )
            for shape in SHAPES
        )
    ] if len(mixable) > 1 else [base]  # fmt: skip
    kept = kept or [base]
    mixed_s = _mean_seconds([min(one.seconds(shape) for one in kept) for shape in SHAPES])
    alone = min(
        (one for one in candidates if one not in mixable),
        key=lambda one: _mean_seconds([one.seconds(shape) for shape in SHAPES]),
        default=None,
    )
    if alone is not None:
        alone_s = _mean_seconds([alone.seconds(shape) for shape in SHAPES])
        if alone_s <= (1 - WORTH_IT) * mixed_s:
            kept = [alone]
    verdicts = [_verdict(one, kept, mixed_s) for one in (base, *candidates)]
    return kept, verdicts


def _verdict(one: Candidate, kept: Sequence[Candidate], mixed_s: float) -> Verdict:
    own_s = _mean_seconds([one.seconds(shape) for shape in SHAPES])
    if one in kept:
        wins = [
            f"{rows}x{tokens}"
            for rows, tokens in SHAPES
            if one.seconds((rows, tokens)) <= min(other.seconds((rows, tokens)) for other in kept)
        ]
        reason = "alone" if len(kept) == 1 else f"fastest for {', '.join(wins)}"
    elif kept and _difference(one) > MIXABLE:
        reason = f"differs by {_difference(one):.3f}, so only alone, in {own_s / mixed_s:.2f} of the time"
    else:
        reason = f"nowhere faster by {WORTH_IT:.0%}"
    return Verdict(one.spec.name, is_kept=one in kept, reason=reason, speed=one.speed)


def _difference(one: Candidate) -> float:
    found = [metric.value for metric in one.speed.agreement if metric.name == "engine_difference_max"]
    return found[0] if found else 0.0


def _mean_seconds(seconds: Sequence[float]) -> float:
    """Geometric mean: no shape dominates."""
    return math.exp(sum(map(math.log, seconds)) / len(seconds))
