"""Publishing an import or a trained head: the manifest and its evidence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import BadInput, TrainingRefused
from tremplin.machine import Machine
from tremplin.optimize.head.dataset import LabelledTexts
from tremplin.optimize.head.train import train_head
from tremplin.optimize.importing import ImportedModel
from tremplin.optimize.measure import QUICK, Effort, measure_speed
from tremplin.optimize.optimiser import Progress
from tremplin.optimize.run_graph import run_rows
from tremplin.registry.manifest import (
    MODEL_FILE,
    TOKENIZER_FILE,
    Interface,
    Manifest,
    Origin,
    is_name,
)
from tremplin.registry.passport import Bound, Quality, Speed, extreme_metric
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer


def import_and_publish(
    registry: Registry,
    read: Callable[[Path], ImportedModel],
    model: str,
    machine: Machine,
    *,
    threads: int = 1,
    effort: Effort = QUICK,
    progress: Progress = lambda step, share: None,
) -> Manifest:
    """Import a checkpoint with ``read``, which writes into a folder and proves parity, and publish it.

    The speed of the new version is measured on this machine.
    """
    check_model_name(model)
    with tempfile.TemporaryDirectory(prefix="tremplin-") as folder:
        progress("read, build, prove parity", 0.1)
        imported = read(Path(folder))
        progress("publish", 0.6)
        manifest = registry.publish(
            _import_manifest(registry, model, imported),
            {MODEL_FILE: imported.onnx_path, TOKENIZER_FILE: imported.tokenizer_path},
        )
    progress("measure", 0.7)
    measure_and_record(registry, manifest, machine, threads=threads, effort=effort)
    return manifest


def train_and_publish(
    registry: Registry,
    encoder: Manifest,
    data: LabelledTexts,
    model: str,
    machine: Machine,
    *,
    test: LabelledTexts | None = None,
    seed: int = 0,
    threads: int = 1,
    effort: Effort = QUICK,
    target_accuracy: float = 0.95,
    progress: Progress = lambda step, share: None,
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
    engine = OnnxRuntimeEngine(graph, threads=machine.cores)
    engine.load()

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack(run_rows(engine, tokenizer.encode(texts).rows, "embedding"))

    with tempfile.TemporaryDirectory(prefix="tremplin-") as folder:
        destination = Path(folder) / MODEL_FILE
        trained = train_head(
            data, encode, graph, destination,
            test=test, seed=seed, target_accuracy=target_accuracy, progress=progress,
        )  # fmt: skip
        engine.close()
        manifest = Manifest(
            model=model,
            version=registry.next_version(model, encoder.precision),
            precision=encoder.precision,
            interface=Interface(
                task=Task.CLASSIFICATION,
                max_tokens=encoder.interface.max_tokens,
                vocab_size=encoder.interface.vocab_size,
                embedding_dim=encoder.interface.embedding_dim,
                needs_token_type_ids=encoder.interface.needs_token_type_ids,
                labels=tuple(trained.labels),
                abstain_below=trained.abstain_below,
            ),
            origin=Origin(
                source=encoder.ref,
                architecture=encoder.origin.architecture,
                weights_sha256=encoder.origin.weights_sha256,
                recipe=(*encoder.origin.recipe, "train-head"),
                notes=tuple(trained.notes),
            ),
            artefacts=(),
            quality=Quality(
                reference="held-out labels",
                data=data.name,
                data_sha256=trained.data_sha256,
                seed=seed,
                metrics=tuple(trained.metrics),
                bounds=(),
                software={name: installed(name) for name in ("onnxruntime", "onnx", "numpy")},
            ),
            report=dict(trained.report),
        )
        manifest = registry.publish(manifest, {MODEL_FILE: destination, TOKENIZER_FILE: tokenizer_file})
    progress("measure", 0.9)
    measure_and_record(registry, manifest, machine, threads=threads, effort=effort)
    return manifest


def measure_and_record(
    registry: Registry, manifest: Manifest, machine: Machine, *, threads: int, effort: Effort = QUICK
) -> Speed:
    """Measure a version on this machine, keep the result beside its manifest and return it."""
    speed = measure_speed(
        registry.path(manifest, MODEL_FILE),
        machine=machine,
        threads=threads,
        max_tokens=manifest.interface.max_tokens,
        vocab_size=manifest.interface.vocab_size,
        effort=effort,
    )
    registry.record_speed(manifest, speed)
    return speed


def check_model_name(model: str) -> None:
    """Raise BadInput when a name cannot name a model."""
    if not is_name(model):
        raise BadInput(
            f"{model!r} cannot name a model: use lower-case letters, digits, '.', '_' and '-', "
            "at most 64 characters, such as 'support-desk'."
        )


def _import_manifest(registry: Registry, model: str, imported: ImportedModel) -> Manifest:
    parity = imported.parity
    return Manifest(
        model=model,
        version=registry.next_version(model, "fp32"),
        precision="fp32",
        interface=Interface(
            task=imported.task,
            max_tokens=imported.max_tokens,
            vocab_size=imported.vocab_size,
            embedding_dim=imported.embedding_dim,
            needs_token_type_ids=imported.needs_token_type_ids,
            labels=imported.labels,
            multi_label=imported.multi_label,
        ),
        origin=Origin(
            source=imported.source,
            architecture=imported.architecture,
            weights_sha256=imported.source_sha256,
            revision=imported.revision or "",
            recipe=(f"import by {imported.built_by}",),
            notes=imported.notes,
        ),
        artefacts=(),
        quality=Quality(
            reference=parity.reference_name,
            data="parity probes",
            data_sha256="",
            seed=0,
            metrics=(
                extreme_metric("parity_difference_max", parity.max_abs_difference, parity.n),
                extreme_metric("parity_label_agreement", parity.label_agreement, parity.n),
            ),
            bounds=(
                Bound("parity_difference_max", at_most=parity.tolerance),
                Bound("parity_label_agreement", at_least=1.0),
            ),
            software={name: installed(name) for name in ("onnxruntime", "onnx", "numpy", "tokenizers")},
        ),
    )
