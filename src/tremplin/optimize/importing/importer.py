"""The import itself: opens a source, builds its graph, proves it, and only then puts it in place."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tremplin.errors import UnsupportedModel
from tremplin.optimize.importing.build import BUILT_BY_TREMPLIN, BuiltGraph, build_graph
from tremplin.optimize.importing.checkpoint import Checkpoint, open_checkpoint
from tremplin.optimize.importing.families import is_known_family
from tremplin.optimize.importing.graph_writer import save_model
from tremplin.optimize.importing.heads import read_labels
from tremplin.optimize.importing.parity import GraphFiles, ParityReport, check_parity
from tremplin.optimize.importing.probes import probes
from tremplin.optimize.importing.reference import ReferenceKind, open_reference
from tremplin.optimize.importing.sentence_modules import SPLADE_MODULE
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE
from tremplin.registry.task import Task

HEAD_TASKS = {
    "ForSequenceClassification": Task.CLASSIFICATION,
    "ForTokenClassification": Task.TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": Task.QUESTION_ANSWERING,
}

# Pretraining heads are dropped: what is left is a bare encoder.
BARE_ENDINGS = ("ForMaskedLM", "ForPreTraining")


@dataclass(frozen=True)
class ImportedModel:
    """A graph and tokenizer on disk, with all that is known of them."""

    onnx_path: Path
    tokenizer_path: Path
    task: Task
    labels: tuple[str, ...]
    multi_label: bool
    max_tokens: int
    """Longest text, special tokens included."""
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


def import_model(
    source: str | Path,
    destination: Path,
    *,
    task: Task | None = None,
    revision: str | None = None,
    reference: ReferenceKind | str = ReferenceKind.AUTO,
    token_embeddings: bool = False,
) -> ImportedModel:
    """Write ``model.onnx`` and ``tokenizer.json`` into ``destination`` and return what they are.

    ``source`` is a folder or a Hub id. Without ``task`` the checkpoint's own head decides, and a bare encoder
    becomes an embedding model (see ``notes``). With ``token_embeddings`` the graph of an embedding model gives
    its last hidden states as well. Nothing is written unless parity holds. Raises the classes of ImportRefused,
    and MissingExtra when an optional package is needed.
    """
    kind = ReferenceKind(reference)
    checkpoint = open_checkpoint(source, revision)
    task = task or default_task(checkpoint)
    if token_embeddings and task is not Task.EMBEDDING:
        raise UnsupportedModel(
            f"{checkpoint.source} is imported for {task}; only embedding models give token embeddings. "
            "Add --task embedding, or leave --token-embeddings out."
        )
    built = _build(checkpoint, task, kind, token_embeddings=token_embeddings)
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".import-") as scratch:
        files = GraphFiles(Path(scratch) / MODEL_FILE, Path(scratch) / TOKENIZER_FILE)
        save_model(built.model, files.onnx_path)
        built.tokenizer.tokenizer.save(str(files.tokenizer_path), pretty=False)
        against = open_reference(
            checkpoint, task, built.tokenizer.max_tokens, kind, token_embeddings=token_embeddings
        )
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
        notes=_notes(checkpoint, task, built),
    )


def default_task(checkpoint: Checkpoint) -> Task:
    """Return the task that the checkpoint's own head is for; EMBEDDING for a bare encoder.

    A sequence classifier with one output and no classes is a cross-encoder: RERANKING. A masked language model is
    for SPARSE_EMBEDDING when the source declares SPLADE pooling. Raises UnsupportedModel for a head that answers
    none of Tremplin's tasks.
    """
    name = checkpoint.architecture
    for ending, task in HEAD_TASKS.items():
        if name.endswith(ending):
            labels = read_labels(checkpoint, task)
            return Task.RERANKING if labels.is_regression and len(labels.names) == 1 else task
    if any(module.kind == SPLADE_MODULE for module in checkpoint.modules):
        return Task.SPARSE_EMBEDDING
    if "For" not in name or name.endswith(BARE_ENDINGS):
        return Task.EMBEDDING
    raise UnsupportedModel(f"{checkpoint.config.path}: {name} answers none of the tasks {', '.join(Task)}.")


def _build(checkpoint: Checkpoint, task: Task, kind: ReferenceKind, *, token_embeddings: bool) -> BuiltGraph:
    if is_known_family(checkpoint):
        return build_graph(checkpoint, task, token_embeddings=token_embeddings)
    if kind is ReferenceKind.NUMPY:
        raise UnsupportedModel(
            f"Architecture {checkpoint.model_type!r} goes through torch, unknown to the NumPy "
            "reference: leave reference to 'auto'."
        )
    from tremplin.optimize.importing.torch_export import export_graph

    return export_graph(checkpoint, task, token_embeddings=token_embeddings)


def _notes(checkpoint: Checkpoint, task: Task, built: BuiltGraph) -> tuple[str, ...]:
    notes = []
    if task is Task.EMBEDDING and not any(module.kind == "Pooling" for module in checkpoint.modules):
        notes.append(
            "The source is a bare encoder: its vectors are the mean over tokens, brought to unit length. "
            "It was probably not trained for this; measure before use."
        )
    if prompts := checkpoint.prompts:
        notes.append(
            f"The source declares prompts ({', '.join(prompts)}) that its users put before a text. "
            "They are not part of the graph: the caller adds them."
        )
    if task is Task.RERANKING:
        notes.append(
            "One output and no classes: imported as a cross-encoder, which scores a query and a document. "
            "The graph's scores are raw; /rerank answers their sigmoid unless raw ones are asked for."
        )
    elif built.labels.is_regression:
        notes.append("The scores are raw, and no service answers with them.")
    if built.built_by != BUILT_BY_TREMPLIN:
        notes.append(
            f"Tremplin has no builder for {checkpoint.model_type!r}: {built.built_by} exported the graph."
        )
    return tuple(notes)
