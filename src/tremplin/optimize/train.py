"""Training a head on frozen features and publishing encoder and head as one version."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import TrainingRefused
from tremplin.machine import Machine
from tremplin.optimize.head.dataset import LabelledTexts
from tremplin.optimize.head.train import train_head
from tremplin.optimize.measure import QUICK, Effort
from tremplin.optimize.publish import check_model_name, measure_and_record
from tremplin.optimize.run_graph import run_rows
from tremplin.progress import Progress, silent
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Interface, Manifest, Origin
from tremplin.registry.passport import Bound, Quality
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engine import pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine, feeds_of
from tremplin.serve.tokenize import TextTokenizer


def train_and_publish(
    registry: Registry,
    encoder: Manifest,
    data: LabelledTexts,
    data_name: str,
    model: str,
    machine: Machine,
    *,
    test: LabelledTexts | None = None,
    seed: int = 0,
    threads: int = 1,
    effort: Effort = QUICK,
    target_accuracy: float = 0.9,
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
    engine = OnnxRuntimeEngine(graph, threads=machine.cores)
    engine.load()

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack(run_rows(engine, tokenizer.encode(texts).rows, "embedding"))

    def tokenize(texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        return feeds_of(pad(tokenizer.encode(texts).rows), engine.inputs)

    with tempfile.TemporaryDirectory(prefix="tremplin-") as folder:
        destination = Path(folder) / MODEL_FILE
        trained = train_head(
            data, encode, graph, destination,
            tokenize=tokenize, test=test, seed=seed, target_accuracy=target_accuracy, progress=progress,
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
                data=data_name,
                data_sha256=trained.data_sha256,
                seed=seed,
                metrics=tuple(trained.metrics),
                bounds=(Bound("accuracy", at_least=_majority_share(data)),),
                software={name: installed(name) for name in ("onnxruntime", "onnx", "numpy")},
            ),
            report=dict(trained.report),
        )
        manifest = registry.publish(manifest, {MODEL_FILE: destination, TOKENIZER_FILE: tokenizer_file})
    progress("measure", 0.9)
    measure_and_record(registry, manifest, machine, threads=threads, effort=effort)
    return manifest


def _majority_share(data: LabelledTexts) -> float:
    """Return the accuracy of always answering the commonest label: a head that does not beat it is not served."""
    counts = Counter(data.labels)
    return max(counts.values()) / len(data.labels)
