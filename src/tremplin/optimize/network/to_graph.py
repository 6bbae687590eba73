"""Writes a network as one graph, by the writers that imports use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx

from tremplin.optimize.head.attach import append_head
from tremplin.optimize.importing.encoder_graph import write_encoder
from tremplin.optimize.importing.encoder_weights import Linear
from tremplin.optimize.importing.graph_writer import GraphWriter, save_model
from tremplin.optimize.importing.heads import Labels, Shapes, write_answer, write_embedding
from tremplin.optimize.importing.parity import LABELS_KEY, TASK_KEY
from tremplin.optimize.network.network import Network
from tremplin.registry.task import Task


def write_network(network: Network, destination: Path, *, temperature: float = 1.0) -> None:
    """Write the graph of a network; a sentence classifier's logits are divided by ``temperature``."""
    writer = GraphWriter()
    spec = replace(network.spec, layers=len(network.weights.layers))
    hidden = write_encoder(writer, spec, network.weights, token_types=False)
    metadata = network.metadata | {
        TASK_KEY: network.task.value,
        LABELS_KEY: json.dumps(list(network.labels), ensure_ascii=False),
    }
    inputs = ["input_ids", "attention_mask"]
    if network.task is Task.TOKEN_CLASSIFICATION:
        shapes = _write_token_head(writer, network, hidden)
        model = writer.model(inputs, shapes, metadata)
    else:
        shapes = write_embedding(writer, hidden, network.steps, network.hidden_size)
        model = writer.model(inputs, shapes, metadata)
        if network.head is not None:
            append_head(model, network.head.weight, network.head.bias, temperature, network.labels)
    onnx.checker.check_model(model)
    save_model(model, destination)


def _write_token_head(writer: GraphWriter, network: Network, hidden: str) -> Shapes:
    head = network.head
    if head is None:
        raise ValueError("a classifier of tokens without a head; this is a bug")
    raw = writer.linear(hidden, "classifier", Linear(head.weight.T, head.bias))
    return write_answer(writer, raw, Labels(network.labels), ["batch", "tokens"])
