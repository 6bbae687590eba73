"""Training a head on frozen features and publishing encoder and head as one version."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import TrainingRefused
from tremplin.machine import Machine
from tremplin.optimize.head.dataset import LabelledTexts
from tremplin.optimize.head.logistic import ClassWeight
from tremplin.optimize.head.train import TrainedHead, train_head
from tremplin.optimize.measure import QUICK, Effort
from tremplin.optimize.publish import check_model_name, measure_and_record
from tremplin.optimize.run_graph import run_rows
from tremplin.progress import Progress, silent
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.passport import Bound, Quality
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engine import pad
from tremplin.serve.engines.feeds import feeds_of
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer


@dataclass(frozen=True)
class HeadTraining:
    """What a head is trained on, and how."""

    data: LabelledTexts
    data_name: str
    test: LabelledTexts | None = None
    """Held-out texts; a stratified part of the data when there are none."""
    target_accuracy: float = 0.9
    """Accuracy to reach among the texts it answers."""
    class_weight: ClassWeight | None = None
    seed: int = 0
    threads: int = 1
    effort: Effort = QUICK


def train_and_publish(
    registry: Registry,
    encoder: Manifest,
    model: str,
    machine: Machine,
    training: HeadTraining,
    progress: Progress = silent,
) -> Manifest:
    """Train a head on an encoder's frozen features and publish encoder and head as one graph."""
    check_model_name(model)
    if encoder.interface.task is not Task.EMBEDDING:
        raise TrainingRefused(
            f"{encoder.ref} does {encoder.interface.task}; a head is trained on an embedding version. "
            "Name one with --encoder."
        )
    graph = registry.path(encoder, MODEL_FILE)
    tokenizer_file = registry.path(encoder, TOKENIZER_FILE)
    tokenizer = TextTokenizer(tokenizer_file, encoder.interface)
    engine = OnnxRuntimeEngine(graph, threads=machine.cores, narrow_weights=encoder.narrow_weights)
    engine.load()

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack(run_rows(engine, tokenizer.encode(texts).ids, "embedding"))

    def tokenize(texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        return feeds_of(pad(tokenizer.encode(texts).ids), engine.inputs)

    with tempfile.TemporaryDirectory(prefix="tremplin-") as folder:
        trained = train_head(
            training.data,
            encode,
            graph,
            Path(folder) / MODEL_FILE,
            tokenize=tokenize,
            test=training.test,
            class_weight=training.class_weight,
            seed=training.seed,
            target_accuracy=training.target_accuracy,
            progress=progress,
        )
        engine.close()
        manifest = registry.publish(
            _manifest(encoder, model, registry.next_version(model, encoder.precision), training, trained),
            {MODEL_FILE: trained.graph, TOKENIZER_FILE: tokenizer_file},
        )
    progress("measure", 0.9)
    measure_and_record(registry, manifest, machine, threads=training.threads, effort=training.effort)
    return manifest


def _manifest(
    encoder: Manifest, model: str, version: str, training: HeadTraining, trained: TrainedHead
) -> Manifest:
    """Return the manifest of encoder and head; the encoder's lineage goes on in it."""
    return Manifest(
        model=model,
        version=version,
        precision=encoder.precision,
        interface=replace(
            encoder.interface,
            task=Task.CLASSIFICATION,
            labels=trained.labels,
            abstain_below=trained.abstain_below,
        ),
        origin=replace(
            encoder.origin,
            source=encoder.ref,
            recipe=(*encoder.origin.recipe, "train-head"),
            notes=trained.notes,
        ),
        artefacts=(),
        quality=Quality(
            reference="held-out labels",
            data=training.data_name,
            data_sha256=trained.data_sha256,
            seed=training.seed,
            metrics=trained.metrics,
            bounds=(Bound("accuracy", at_least=_majority_share(training.data)),),
            software={name: installed(name) for name in ("onnxruntime", "onnx", "numpy")},
        ),
        narrow_weights=encoder.narrow_weights,
        report=dict(trained.report),
    )


def _majority_share(data: LabelledTexts) -> float:
    """Return the accuracy of always answering the commonest label: a head that does not beat it is not served."""
    counts = Counter(data.labels)
    return max(counts.values()) / len(data.labels)
