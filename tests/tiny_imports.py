"""Tiny checkpoints with random weights, imported and published: real graphs of every task, made without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny_models
from tests.unit.optimize.importing.tiny_checkpoints import write_bert
from tremplin.machine import read_machine
from tremplin.optimize.importing import import_model
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Interface, Manifest
from tremplin.registry.store import Registry


def publish_import(registry: Registry, source: Path, model: str, **options: Any) -> Manifest:
    """Import a checkpoint and publish it with evidence of speed, so that nothing has to be measured."""
    imported = import_model(source, source.with_name(f"{source.name}-imported"), reference="numpy", **options)
    interface = Interface(
        task=imported.task,
        max_tokens=imported.max_tokens,
        vocab_size=imported.vocab_size,
        embedding_dim=imported.embedding_dim,
        needs_token_type_ids=imported.needs_token_type_ids,
        labels=imported.labels,
    )
    manifest = registry.publish(
        tiny_models.manifest_of(model, interface=interface),
        {MODEL_FILE: imported.onnx_path, TOKENIZER_FILE: imported.tokenizer_path},
    )
    registry.record_speed(manifest, tiny_models.speed_on(read_machine()))
    return manifest


def publish_cross_encoder(registry: Registry, folder: Path, model: str = "ranker") -> Manifest:
    """Publish a cross-encoder; its checkpoint is left in ``folder``."""
    return publish_import(registry, write_bert(folder, labels=1), model)
