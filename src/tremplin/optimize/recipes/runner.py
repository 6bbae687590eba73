"""Runs recipes: step after step, each stage kept, nothing worked twice."""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from tremplin.errors import OptimizeFailed, PassFailed
from tremplin.optimize.recipes.recipe import Recipe
from tremplin.optimize.recipes.stage import Stage, StageRecord, find_stage, keep_stage, stage_key
from tremplin.optimize.recipes.steps import Step, Workshop
from tremplin.progress import Progress
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.serve.engine import SERVED_OUTPUT, pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

PROBE = "a few words that every tokenizer can read"


def first_stage(registry: Registry, source: Manifest, folder: Path) -> Stage:
    """Return the stage a recipe begins with: a published fp32 version."""
    _remove_abandoned(folder)
    digest = source.artefact(MODEL_FILE).sha256
    key = stage_key("", "source", {"model": digest}, "", 0)
    found = find_stage(folder, key, None)
    if found is None:
        aside = _aside(folder)
        shutil.copyfile(registry.path(source, MODEL_FILE), aside / MODEL_FILE)
        shutil.copyfile(registry.path(source, TOKENIZER_FILE), aside / TOKENIZER_FILE)
        record = StageRecord(source.ref, source.interface, is_trainable=source.precision == "fp32")
        found = keep_stage(aside, folder, key, record, None)
    # An encoder teaches its own students until a step puts a classifier in its place.
    return replace(found, teacher=found)


def run_recipe(recipe: Recipe, start: Stage, folder: Path, workshop: Workshop) -> Stage:
    """Return the last stage of a recipe; stages that are in ``folder`` already are not made again.

    Raises PassFailed when a step cannot work on what the one before left, TrainingFailed when training cannot go
    on, OptimizeFailed when the disk is full. Everything finished stays, and the same call goes on from there.
    """
    stage = start
    for number, step in enumerate(recipe.steps):
        within = _part(workshop.progress, f"{recipe.name}: {step.name}", number, len(recipe.steps))
        stage = run_step(step, stage, folder, replace(workshop, progress=within))
    return stage


def run_step(step: Step, stage: Stage, folder: Path, workshop: Workshop) -> Stage:
    """Return the stage that a step makes out of another, from the folder when it is there."""
    options = asdict(step)  # type: ignore[call-overload]
    key = stage_key(stage.key, step.name, options, workshop.corpus.sha256, workshop.seed)
    made = find_stage(folder, key, stage)
    if made is None:
        if not stage.record.is_trainable:
            raise PassFailed(
                f"{step.name} comes after {stage.record.step}, which leaves a finished graph: nothing can change "
                "it. Put quantize and half last."
            )
        made = _worked(step, stage, folder, key, workshop)
    return replace(made, teacher=made) if step.makes_teacher else made


def _worked(step: Step, stage: Stage, folder: Path, key: str, workshop: Workshop) -> Stage:
    aside = _aside(folder)
    started = time.monotonic()
    try:
        record = step.run(stage, workshop, aside, folder / f"{key}.checkpoint")
        _check(aside, record, step.name)
        record = replace(record, seconds=time.monotonic() - started)
        return keep_stage(aside, folder, key, record, stage)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OptimizeFailed(
            f"The disk is full while {step.name} was writing under {folder}. Free space and run the command "
            "again: finished steps are kept, and training goes on from its checkpoint."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check(made: Path, record: StageRecord, name: str) -> None:
    """What a step left must run and give finite numbers of the shape it claims: every step's after-condition."""
    interface = record.interface
    tokenizer = TextTokenizer(made / TOKENIZER_FILE, interface)
    engine = OnnxRuntimeEngine(made / MODEL_FILE, threads=1, narrow_weights=record.narrow_weights)
    engine.load()
    try:
        answer = engine.run(pad(tokenizer.encode([PROBE]).ids))[SERVED_OUTPUT[interface.task]]
    finally:
        engine.close()
    wanted = len(interface.labels) if interface.labels else interface.embedding_dim
    if not np.isfinite(answer).all() or (wanted and answer.shape[-1] != wanted):
        raise PassFailed(
            f"{name} left a graph that gives {answer.shape[-1]} numbers, some perhaps not finite; {wanted} finite "
            "ones were expected. This is a bug: please report the recipe."
        )


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed process was making; the run is held, so nobody else is making anything here."""
    for left in folder.glob("making-*"):
        shutil.rmtree(left, ignore_errors=True)


def _aside(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="making-", dir=folder))


def _part(progress: Progress, name: str, number: int, count: int) -> Callable[[str, float], None]:
    """Return a progress that fills one of ``count`` parts."""

    def told(step: str, share: float) -> None:
        progress(f"{name}, {step}", (number + min(share, 1.0)) / count)

    return told
