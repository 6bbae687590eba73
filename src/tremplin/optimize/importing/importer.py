"""The import itself: opens a source, builds its graph, proves it, and only then puts it in place."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tremplin.errors import UnsupportedModel
from tremplin.optimize.importing import families, heads, sentence_modules
from tremplin.optimize.importing.checkpoint import Checkpoint, open_checkpoint
from tremplin.optimize.importing.encoder_graph import needs_token_type_ids, write_encoder
from tremplin.optimize.importing.encoder_weights import read_encoder
from tremplin.optimize.importing.graph_writer import GraphWriter, save_model
from tremplin.optimize.importing.parity import (
    LABELS_KEY,
    MAX_TOKENS_KEY,
    MULTI_LABEL_KEY,
    PADDING_KEY,
    TASK_KEY,
    GraphFiles,
    ParityReport,
    check_parity,
)
from tremplin.optimize.importing.probes import probes
from tremplin.optimize.importing.reference import ReferenceKind, open_reference
from tremplin.optimize.importing.tokenizer import PreparedTokenizer, prepare_tokenizer, token_limit
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE
from tremplin.registry.task import Task

if TYPE_CHECKING:
    import onnx

BUILT_BY_TREMPLIN = "tremplin"
BUILT_BY_TORCH = "torch.onnx"


@dataclass(frozen=True)
class ImportedModel:
    """A graph and tokenizer on disk, with all that is known of them."""

    onnx_path: Path
    tokenizer_path: Path
    task: Task
    labels: tuple[str, ...]
    multi_label: bool
    max_tokens: int
    embedding_dim: int | None
    vocab_size: int
    """Rows of the word table: every token id is below it."""
    padding_id: int
    needs_token_type_ids: bool
    architecture: str
    source: str
    revision: str | None
    source_sha256: str
    """Of the encoder's weights file; of the digests of its shards when there are several."""
    built_by: str
    """``tremplin`` or ``torch.onnx``."""
    parity: ParityReport
    notes: tuple[str, ...] = ()
    """What a careful reader should know: a pooling that the source did not declare, a prompt left out."""


@dataclass(frozen=True)
class BuiltGraph:
    """A graph in memory, before it is proven."""

    model: onnx.ModelProto
    labels: heads.Labels
    embedding_dim: int | None
    vocab_size: int
    needs_token_type_ids: bool
    tokenizer: PreparedTokenizer
    built_by: str


def import_model(
    source: str | Path,
    destination: Path,
    *,
    task: Task | None = None,
    revision: str | None = None,
    reference: ReferenceKind | str = ReferenceKind.AUTO,
) -> ImportedModel:
    """Write ``model.onnx`` and ``tokenizer.json`` into ``destination`` and return what they are.

    ``source`` is a folder or a Hub id. Without ``task`` the checkpoint's own head decides, and a bare encoder
    becomes an embedding model (see ``notes``). Nothing is written unless parity holds. Raises the classes of
    ImportRefused, and MissingExtra when an optional package is needed.
    """
    kind = ReferenceKind(reference)
    checkpoint = open_checkpoint(source, revision)
    task = task or default_task(checkpoint)
    built = build_graph(checkpoint, task)
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".import-") as scratch:
        files = GraphFiles(Path(scratch) / MODEL_FILE, Path(scratch) / TOKENIZER_FILE)
        save_model(built.model, files.onnx_path)
        built.tokenizer.tokenizer.save(str(files.tokenizer_path), pretty=False)
        against = open_reference(checkpoint, task, built.tokenizer.max_tokens, kind)
        report = check_parity(files, against, probes(task, built.needs_token_type_ids))
        for path in Path(scratch).iterdir():
            os.replace(path, destination / path.name)
    return ImportedModel(
        onnx_path=destination / MODEL_FILE,
        tokenizer_path=destination / TOKENIZER_FILE,
        task=task,
        labels=built.labels.names,
        multi_label=built.labels.multi_label,
        max_tokens=built.tokenizer.max_tokens,
        embedding_dim=built.embedding_dim,
        vocab_size=built.vocab_size,
        padding_id=built.tokenizer.padding_id,
        needs_token_type_ids=built.needs_token_type_ids,
        architecture=checkpoint.architecture or checkpoint.model_type,
        source=checkpoint.source,
        revision=checkpoint.revision,
        source_sha256=checkpoint.weights.sha256(),
        built_by=built.built_by,
        parity=report,
        notes=_notes(checkpoint, task),
    )


def default_task(checkpoint: Checkpoint) -> Task:
    """Return the task that the checkpoint's own head is for; EMBEDDING for a bare encoder.

    Raises UnsupportedModel for a head that answers none of Tremplin's tasks.
    """
    name = checkpoint.architecture
    for ending, task in (
        ("ForSequenceClassification", Task.CLASSIFICATION),
        ("ForTokenClassification", Task.TOKEN_CLASSIFICATION),
        ("ForQuestionAnswering", Task.QUESTION_ANSWERING),
    ):
        if name.endswith(ending):
            return task
    if "For" not in name or name.endswith(("ForMaskedLM", "ForPreTraining")):
        return Task.EMBEDDING
    raise UnsupportedModel(f"{checkpoint.config.path}: {name} answers none of the tasks {', '.join(Task)}.")


def build_graph(checkpoint: Checkpoint, task: Task) -> BuiltGraph:
    """Return the graph of a checkpoint for a task, not yet proven."""
    spec = families.read_spec(checkpoint)
    labels = heads.read_labels(checkpoint, task)
    limit = token_limit(checkpoint, spec.max_positions)
    tokenizer = prepare_tokenizer(checkpoint, max_tokens=limit, embedding_rows=spec.vocab_size)
    token_types = needs_token_type_ids(spec, task)
    writer = GraphWriter()
    weights = checkpoint.weights
    hidden = write_encoder(writer, spec, read_encoder(spec, weights), token_types=token_types)
    match task:
        case Task.EMBEDDING:
            steps = sentence_modules.read_embedding_steps(checkpoint, spec.hidden_size)
            shapes = heads.write_embedding(writer, hidden, steps, spec.hidden_size)
        case Task.CLASSIFICATION:
            shapes = heads.write_classification(writer, hidden, spec, weights, labels)
        case Task.TOKEN_CLASSIFICATION:
            shapes = heads.write_token_classification(writer, hidden, spec, weights, labels)
        case Task.QUESTION_ANSWERING:
            shapes = heads.write_question_answering(writer, hidden, spec, weights)
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    return BuiltGraph(
        model=writer.model(inputs, shapes, graph_metadata(task, labels, tokenizer)),
        labels=labels,
        embedding_dim=int(shapes["embedding"][1]) if task is Task.EMBEDDING else None,
        vocab_size=spec.vocab_size,
        needs_token_type_ids=token_types,
        tokenizer=tokenizer,
        built_by=BUILT_BY_TREMPLIN,
    )


def graph_metadata(task: Task, labels: heads.Labels, tokenizer: PreparedTokenizer) -> dict[str, str]:
    """Return what a graph says of itself in its metadata_props."""
    return {
        TASK_KEY: task.value,
        LABELS_KEY: json.dumps(labels.names, ensure_ascii=False),
        MULTI_LABEL_KEY: json.dumps(labels.multi_label),
        MAX_TOKENS_KEY: str(tokenizer.max_tokens),
        PADDING_KEY: str(tokenizer.padding_id),
    }


def _notes(checkpoint: Checkpoint, task: Task) -> tuple[str, ...]:
    notes = []
    if task is Task.EMBEDDING and not any(module.kind == "Pooling" for module in checkpoint.modules):
        notes.append(
            "The source is a bare encoder: its vectors are the mean over tokens, brought to unit length. "
            "It was probably not trained for this; measure before use."
        )
    return tuple(notes)
