"""Builds the graph of a known family: encoder, head, tokenizer, and what the graph says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tremplin.optimize.importing import heads
from tremplin.optimize.importing.checkpoint import Checkpoint
from tremplin.optimize.importing.encoder_graph import WORD_TABLE, needs_token_type_ids, write_encoder
from tremplin.optimize.importing.encoder_weights import read_encoder
from tremplin.optimize.importing.families import read_spec
from tremplin.optimize.importing.graph_writer import GraphWriter
from tremplin.optimize.importing.language_model_head import read_language_model_head
from tremplin.optimize.importing.parity import (
    LABELS_KEY,
    MAX_TOKENS_KEY,
    MULTI_LABEL_KEY,
    PADDING_KEY,
    TASK_KEY,
)
from tremplin.optimize.importing.sentence_modules import read_embedding_steps, read_splade_pooling
from tremplin.optimize.importing.tokenizer import PreparedTokenizer, prepare_tokenizer, token_limit
from tremplin.registry.task import Task

if TYPE_CHECKING:
    import onnx

BUILT_BY_TREMPLIN = "tremplin"


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


def build_graph(checkpoint: Checkpoint, task: Task, *, token_embeddings: bool = False) -> BuiltGraph:
    """Return the graph of a checkpoint of a known family for a task, not yet proven.

    ``token_embeddings`` are a further output of an embedding graph.
    Raises UnsupportedModel, IncompleteSource or TokenizerMismatch.
    """
    spec = read_spec(checkpoint)
    labels = heads.read_labels(checkpoint, task)
    limit = token_limit(checkpoint, spec.max_positions)
    tokenizer = prepare_tokenizer(checkpoint, max_tokens=limit, embedding_rows=spec.vocab_size)
    token_types = needs_token_type_ids(spec, task)
    writer = GraphWriter()
    weights = checkpoint.weights
    hidden = write_encoder(writer, spec, read_encoder(spec, weights), token_types=token_types)
    match task:
        case Task.EMBEDDING:
            steps = read_embedding_steps(checkpoint, spec.hidden_size)
            shapes = heads.write_embedding(
                writer, hidden, steps, spec.hidden_size, token_embeddings=token_embeddings
            )
        case Task.SPARSE_EMBEDDING:
            head = read_language_model_head(spec, weights, checkpoint.config)
            logits = heads.write_language_model(writer, hidden, spec, head, WORD_TABLE)
            shapes = heads.write_splade(writer, logits, read_splade_pooling(checkpoint), spec.vocab_size)
        case Task.CLASSIFICATION | Task.RERANKING:
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
