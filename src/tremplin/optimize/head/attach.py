"""One graph out of two: the encoder as it is, then the head.

    embedding (batch, dim) -> head.matmul -> head.add -> logits (batch, labels)
                                             head.softmax -> probabilities (batch, labels)

The temperature is folded into the head's weights. The head stays float32 whatever the encoder's precision;
``optimize/passes`` leave every node named ``head.*`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tremplin.errors import PassFailed
from tremplin.optimize.head.logistic import Logistic
from tremplin.optimize.importing.parity import LABELS_KEY, TASK_KEY
from tremplin.optimize.passes.graph import HEAD_PREFIX, read_graph
from tremplin.registry.files import write_atomically
from tremplin.registry.task import Task

Numbers = NDArray[np.float32] | NDArray[np.float64]

EMBEDDING = "embedding"
LOGITS = "logits"
PROBABILITIES = "probabilities"
MIN_OPSET = 13  # from here on Softmax works along one axis


def attach_head(
    encoder_onnx: Path, head: Logistic, temperature: float, labels: Sequence[str], destination: Path
) -> None:
    """Write one graph that gives ``embedding``, ``logits`` and ``probabilities``.

    ``logits`` are already divided by ``temperature``, so ``probabilities`` is their softmax. The labels and
    the task are kept in the graph's metadata (``tremplin.labels``, a JSON list, and ``tremplin.task``).
    Raises PassFailed when the encoder has no such embedding or already carries a head.
    """
    model = read_graph(encoder_onnx)
    _check_encoder(model, encoder_onnx.name, len(head.weight))
    if len(labels) != len(head.bias):
        raise PassFailed(f"The head has {len(head.bias)} outputs and {len(labels)} labels were given.")
    append_head(model, head.weight, head.bias, temperature, labels)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise PassFailed(f"The encoder with its head is not a valid graph: {error}") from None
    write_atomically(destination, model.SerializeToString(deterministic=True))


def append_head(
    model: onnx.ModelProto, head_weight: Numbers, head_bias: Numbers, temperature: float, labels: Sequence[str]
) -> None:
    """Add a head's nodes, weights, outputs and metadata to a graph that gives ``embedding``.

    ``head_weight`` is (dim, labels), ``head_bias`` (labels,).
    """
    graph = model.graph
    weight = np.ascontiguousarray(head_weight / temperature, np.float32)
    bias = np.ascontiguousarray(head_bias / temperature, np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, "head.weight"))
    graph.initializer.append(numpy_helper.from_array(bias, "head.bias"))
    # MatMul and Add, since static quantizers stumble over a Gemm's bias.
    graph.node.append(helper.make_node("MatMul", [EMBEDDING, "head.weight"], ["head.scores"], "head.matmul"))
    graph.node.append(helper.make_node("Add", ["head.scores", "head.bias"], [LOGITS], "head.add"))
    graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], "head.softmax", axis=-1))
    batch = _embedding(graph).type.tensor_type.shape.dim[0].dim_param or "batch"
    for name in (LOGITS, PROBABILITIES):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, len(bias)]))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    metadata[TASK_KEY] = Task.CLASSIFICATION.value
    metadata[LABELS_KEY] = json.dumps(list(labels), ensure_ascii=False)
    metadata["tremplin.temperature"] = repr(float(temperature))
    helper.set_model_props(model, metadata)


def _check_encoder(model: onnx.ModelProto, name: str, dim: int) -> None:
    """Refuse a graph a head cannot follow."""
    graph = model.graph
    outputs = [output.name for output in graph.output]
    if EMBEDDING not in outputs:
        raise PassFailed(f"{name} has no output {EMBEDDING!r}; it has {outputs}. A head needs an encoder.")
    taken = {LOGITS, PROBABILITIES} & {output for node in graph.node for output in node.output}
    if taken or any(node.name.startswith(HEAD_PREFIX) for node in graph.node):
        raise PassFailed(f"{name} already carries a head. Train on the encoder it was made from.")
    tensor = _embedding(graph).type.tensor_type
    dims = tensor.shape.dim
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 2 or dims[1].dim_value not in (0, dim):
        shape = [size.dim_param or size.dim_value for size in dims]
        raise PassFailed(
            f"The output {EMBEDDING!r} of {name} has shape {shape}; float32 (batch, {dim}) was expected."
        )
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise PassFailed(f"{name} has opset {opset}; {MIN_OPSET} or later was expected. Export it again.")


def _embedding(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    return next(output for output in graph.output if output.name == EMBEDDING)
