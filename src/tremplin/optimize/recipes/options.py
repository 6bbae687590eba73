"""What an objective is picked from: each version of a study, on each engine here, with one thread and with all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tremplin.errors import EngineFailed
from tremplin.machine import Machine
from tremplin.optimize.race import Result, Runner, race
from tremplin.optimize.recipes.steps import Workshop
from tremplin.optimize.recipes.study import RACE_TEXTS, Entry, Study, peak_memory
from tremplin.optimize.slo import Choice, Option, Slo, pick
from tremplin.serve.engines.catalogue import EngineName, EngineSpec, installed

ENGINES = (EngineName.ONNX_RUNTIME, EngineName.OPENVINO)


@dataclass(frozen=True)
class Picked:
    """The choice, and what was measured for it."""

    choice: Choice
    options: tuple[Option, ...]


def pick_for(study: Study, objective: Slo, workshop: Workshop, machine: Machine) -> Picked:
    """Return the cheapest option that meets an objective; every option is measured side by side.

    The loss of a version was measured with ONNX Runtime; on another engine it is not known, so an objective that
    bounds the loss is picked among ONNX Runtime's options.
    """
    engines = [name for name in ENGINES if name in installed()]
    threads = sorted({1, machine.cores})
    texts = list(workshop.corpus.test.texts[:RACE_TEXTS])
    options: list[Option] = []
    for count in threads:
        runners = [_runner(entry, engine, count) for entry in study.entries for engine in engines]
        results = dict(zip(((r.name) for r in runners), race(runners, texts, rounds=3), strict=True))
        for entry in study.entries:
            for engine in engines:
                found = results[_name(entry, engine)]
                options.append(_option(entry, engine, count, found))
    return Picked(pick(options, objective), tuple(options))


def _runner(entry: Entry, engine: EngineName, threads: int) -> Runner:
    return Runner(
        _name(entry, engine), _spec(entry, engine, threads), entry.stage.tokenizer, entry.finished.interface
    )


def _name(entry: Entry, engine: EngineName) -> str:
    return f"{entry.name} on {engine}"


def _spec(entry: Entry, engine: EngineName, threads: int) -> EngineSpec:
    narrow = entry.stage.record.narrow_weights
    return EngineSpec(engine, str(Path(entry.graph)), threads, narrow_weights=narrow)


def _option(entry: Entry, engine: EngineName, threads: int, found: Result) -> Option:
    verdict = entry.evidence.verdict
    # The loss was measured with ONNX Runtime; what another engine loses is not known from it.
    is_judged = engine is EngineName.ONNX_RUNTIME
    bound = 0.0 if verdict is None else verdict.loss.upper
    option = Option(
        ref=entry.name,
        engine=engine.value,
        threads=threads,
        p50_ms=found.p50_ms,
        p95_ms=found.p95_ms,
        p99_ms=found.p99_ms,
        rate_per_s=found.rate_per_s,
        loss_bound_points=bound if is_judged else None,
        size_bytes=float(entry.evidence.size_bytes),
    )
    try:
        return replace(option, memory_bytes=float(peak_memory(entry, _spec(entry, engine, threads))))
    except EngineFailed:
        return option
