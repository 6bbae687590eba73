"""Training one version: the recipe of one step behind ``tremplin train``, published with its evidence."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path

from tremplin.machine import Machine
from tremplin.optimize.gate import Gate
from tremplin.optimize.measure import QUICK, Effort
from tremplin.optimize.publish import check_model_name, measure_and_record
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.evidence import ClassifierExaminer
from tremplin.optimize.recipes.ranks import rank_metrics
from tremplin.optimize.recipes.recipe import recipe
from tremplin.optimize.recipes.runner import first_stage, run_recipe
from tremplin.optimize.recipes.stage import Stage
from tremplin.optimize.recipes.steps import Step, TrainOnPairs, Workshop
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.passport import Bound, Quality
from tremplin.registry.store import Registry

NO_WORSE = Bound("reciprocal_rank_loss_points", at_most=0.0)
SOFTWARE = ("onnxruntime", "onnx", "numpy", "tokenizers", "torch")


@dataclass(frozen=True)
class Order:
    """What is trained, and how it is measured."""

    model: str
    step: Step
    threads: int = 1
    target_accuracy: float = 0.9
    effort: Effort = QUICK


def train_classifier(
    registry: Registry, source: Manifest, run: Path, workshop: Workshop, order: Order, machine: Machine
) -> Manifest:
    """Train a classifier by one step, judge it on the corpus's test texts and publish it.

    ``run`` is the folder that keeps stages and checkpoints: the same call goes on with what is there.
    """
    check_model_name(order.model)
    corpus = workshop.corpus
    stage = _trained(registry, source, run, workshop, order)
    with tempfile.TemporaryDirectory(prefix="tremplin-") as folder:
        examiner = ClassifierExaminer(
            corpus, Gate(0.0), target_accuracy=order.target_accuracy, threads=workshop.threads, seed=workshop.seed
        )
        finished = examiner.finish(stage, Path(folder) / MODEL_FILE)
        evidence = examiner.examine(finished, stage)
        majority = max(Counter(corpus.train.labels).values()) / len(corpus.train)
        manifest = registry.publish(
            _manifest(
                registry, source, stage, workshop, order,
                interface=finished.interface,
                quality=_quality(corpus, workshop, evidence.metrics, Bound("accuracy", at_least=majority)),
                report=evidence.report | {"training": _told(stage)},
            ),
            {MODEL_FILE: finished.graph, TOKENIZER_FILE: stage.tokenizer},
        )  # fmt: skip
    measure_and_record(registry, manifest, machine, threads=order.threads, effort=order.effort)
    return manifest


def train_encoder(
    registry: Registry, source: Manifest, run: Path, workshop: Workshop, order: Order, machine: Machine
) -> Manifest:
    """Tune an encoder on pairs and publish it with its rank on held-out pairs, before and after."""
    from tremplin.optimize.recipes.pair_file import read_pairs

    check_model_name(order.model)
    step = order.step
    if not isinstance(step, TrainOnPairs):
        raise TypeError("an encoder is trained on pairs; this is a bug")
    stage = _trained(registry, source, run, workshop, order)
    pairs = read_pairs(Path(step.file), seed=workshop.seed)
    before = first_stage(registry, source, run / "stages")
    metrics = rank_metrics(before, stage, pairs.held_out, threads=workshop.threads, seed=workshop.seed)
    manifest = registry.publish(
        _manifest(
            registry, source, stage, workshop, order,
            interface=stage.interface,
            quality=_quality(workshop.corpus, workshop, metrics, NO_WORSE),
            report={"training": _told(stage)},
        ),
        {MODEL_FILE: stage.graph, TOKENIZER_FILE: stage.tokenizer},
    )  # fmt: skip
    measure_and_record(registry, manifest, machine, threads=order.threads, effort=order.effort)
    return manifest


def _trained(registry: Registry, source: Manifest, run: Path, workshop: Workshop, order: Order) -> Stage:
    stages = run / "stages"
    return run_recipe(recipe("train", order.step), first_stage(registry, source, stages), stages, workshop)


def _told(stage: Stage) -> dict[str, object]:
    record = stage.record
    return {"step": record.step, "curve": record.curve, "seconds": record.seconds, **record.facts}


def _quality(corpus: Corpus, workshop: Workshop, metrics, *bounds: Bound) -> Quality:  # type: ignore[no-untyped-def]
    software = {name: installed(name) for name in SOFTWARE if _is_installed(name)}
    return Quality(
        "held-out labels", corpus.test.source, corpus.sha256, workshop.seed, tuple(metrics), bounds, software
    )


def _is_installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def _manifest(  # type: ignore[no-untyped-def]
    registry: Registry, source: Manifest, stage: Stage, workshop: Workshop, order: Order, *,
    interface, quality: Quality, report: dict[str, object],
) -> Manifest:  # fmt: skip
    return Manifest(
        model=order.model,
        version=registry.next_version(order.model, "fp32"),
        precision="fp32",
        interface=interface,
        origin=replace(
            source.origin,
            source=source.ref,
            recipe=(*source.origin.recipe, stage.record.step),
            notes=tuple(dict.fromkeys((*workshop.corpus.notes, *stage.record.notes))),
        ),
        artefacts=(),
        quality=quality,
        report=report,
    )


def no_corpus(name: str, sha256: str) -> Corpus:
    """Return a corpus without labelled text, for what learns from a file of its own."""
    from tremplin.optimize.head.dataset import LabelledTexts

    empty = LabelledTexts(name, (), (), (), sha256)
    return Corpus(name, sha256, empty, empty, empty)
