"""Publishing an import: the manifest, the evidence of parity, the speed on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path

from tremplin.errors import BadInput
from tremplin.machine import Machine
from tremplin.optimize.importing import ImportedModel
from tremplin.optimize.measure import QUICK, Effort, measure_speed
from tremplin.progress import Progress, silent
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
from tremplin.serve.engines.catalogue import EngineSpec, engine_of


def import_and_publish(
    registry: Registry,
    read: Callable[[Path], ImportedModel],
    model: str,
    machine: Machine,
    *,
    threads: int = 1,
    effort: Effort = QUICK,
    progress: Progress = silent,
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


def measure_and_record(
    registry: Registry,
    manifest: Manifest,
    machine: Machine,
    *,
    threads: int,
    effort: Effort = QUICK,
    engine: EngineSpec | None = None,
) -> Speed:
    """Measure a version on this machine, keep the result beside its manifest and return it.

    ``engine`` is what runs it; ONNX Runtime when nothing else is named.
    """
    engine = engine or engine_of(registry, manifest, threads=threads)
    speed = measure_speed(
        engine,
        machine=machine,
        max_tokens=manifest.interface.max_tokens,
        vocab_size=manifest.interface.vocab_size,
        effort=effort,
    )
    registry.record_speed(manifest, speed, engine.name)
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
