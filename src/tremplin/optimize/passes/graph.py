"""Reading and rewriting ONNX graphs, as far as the passes need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tremplin.errors import PassFailed

Weight = NDArray[np.float32]

HEAD_PREFIX = "head."
"""Begins the names of a trained head's nodes."""


@dataclass(frozen=True)
class PassResult:
    """What a pass did, for the version's lineage and report."""

    name: str
    """The pass with its options, as the lineage prints it."""
    linears: int
    """Matrix products whose weights it quantized."""
    notes: tuple[str, ...] = ()
    narrow_weights: bool = False
    """No product of its weights overflows on any CPU (``quantize_columns``)."""


class Pass(Protocol):
    """Reads a graph, writes another that answers the same within the version's bound."""

    @property
    def name(self) -> str:
        """The pass with its options."""
        ...

    def call(self, source: Path, destination: Path) -> PassResult:
        """Write ``destination``; raises PassFailed when the graph is not one this pass can work on."""
        ...


@dataclass(frozen=True)
class Linear:
    """A matrix product by a constant: the only kind of node that is worth quantizing in an encoder."""

    node: onnx.NodeProto
    input: str
    output: str
    weight_name: str
    weight: Weight
    """(in_features, out_features)"""


@dataclass
class Rewriter:
    """A graph being rewritten: nodes are replaced in place, so the order stays topological."""

    model: onnx.ModelProto
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _constants: list[onnx.TensorProto] = field(default_factory=list)
    _removed: set[str] = field(default_factory=set)

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initializer and return its name."""
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Append a node with one output and return the output's name."""
        self.nodes(op, inputs, [output], **attributes)
        return output

    def nodes(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> None:
        """Append a node with several outputs; it is named after the first."""
        self._nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))

    def drop_constant(self, name: str) -> None:
        """Remove an initializer when the graph is written."""
        self._removed.add(name)

    def rewrite(self, replace: Callable[[onnx.NodeProto], bool]) -> None:
        """Offer every node to ``replace``, which adds what stands in for it and returns True, or False."""
        for node in self.model.graph.node:
            if not replace(node):
                self._nodes.append(node)
        graph = self.model.graph
        kept = [tensor for tensor in graph.initializer if tensor.name not in self._removed]
        del graph.node[:]
        del graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend([*kept, *self._constants])

    def save(self, destination: Path) -> None:
        """Check the graph and write it."""
        onnx.save(self.model, str(destination))


def read_graph(path: Path) -> onnx.ModelProto:
    """Return the graph in a file; raises PassFailed when the file is not one."""
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise classes of their own
        raise PassFailed(f"{path.name} is not a readable ONNX graph ({type(error).__name__}).") from None


def linears(model: onnx.ModelProto) -> list[Linear]:
    """Return every matrix product by a float32 constant, except those of a trained head.

    A head is a few thousand weights: quantizing it saves nothing and moves the decision.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants or node.name.startswith(HEAD_PREFIX):
            continue
        tensor = constants[node.input[1]]
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
            continue
        weight: Weight = numpy_helper.to_array(tensor)
        found.append(Linear(node, node.input[0], node.output[0], tensor.name, weight))
    return found


def quantize_columns(weight: Weight, *, narrow: bool = False) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights and one scale per output column: weight ~ int8 * scale.

    ``weight`` is (in, out). Symmetric, so that the engine needs no correction term. ``narrow`` widens a column's
    scale until no two neighbours of it (rows 0 and 1, 2 and 3, ...) add up to more than 128: CPUs without VNNI add
    the products of such a pair in 16 bits, and 255 * 128 fits (docs/decisions/0011).
    """
    reach = np.abs(weight).max(axis=0)
    if narrow:
        reach = np.maximum(reach, _pair_reach(weight))
    scale = np.maximum(reach, 1e-12).astype(np.float32) / np.float32(127)
    return np.rint(weight / scale).astype(np.int8), scale


def _pair_reach(weight: Weight) -> Weight:
    """Return the largest sum, by magnitude, that two neighbours of a column can add to a product: (out,).

    Of weights of opposite sign only one counts: activations are unsigned, and the other's may be 0.
    """
    even = np.concatenate([weight, np.zeros((len(weight) % 2, weight.shape[1]), weight.dtype)])
    pairs = even.reshape(-1, 2, weight.shape[1])  # (pairs, 2, out)
    up, down = np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1)
    reach: Weight = np.maximum(up, down).max(axis=0)
    return reach


def quantize_word_table(rewriter: Rewriter, node: onnx.NodeProto, table: Weight) -> None:
    """Replace a look-up in a float table by one in int8 rows, each with its own scale.

    Half of a small encoder is its word table, and no arithmetic is done on it: it loses no speed and, with
    a scale per row, almost no precision.
    """
    name, ids = node.input[0], node.input[1]
    scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
    rewriter.drop_constant(name)
    rewriter.constant(f"{name}.int8", np.rint(table / scale).astype(np.int8))
    rewriter.constant(f"{name}.scale", scale)
    rows = rewriter.node("Gather", [f"{name}.int8", ids], f"{node.output[0]}.int8")
    floats = rewriter.node("Cast", [rows], f"{node.output[0]}.float", to=TensorProto.FLOAT)
    scales = rewriter.node("Gather", [f"{name}.scale", ids], f"{node.output[0]}.scale")
    rewriter.node("Mul", [floats, scales], node.output[0])


def word_table(model: onnx.ModelProto) -> tuple[onnx.NodeProto, Weight] | None:
    """Return the node that looks ``input_ids`` up, and its table; None when it is not float32."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] == "input_ids" and node.input[0] in constants:
            tensor = constants[node.input[0]]
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
                return node, numpy_helper.to_array(tensor)
    return None


def cut_after(model: onnx.ModelProto, tensor: str, new_name: str, width: int) -> onnx.ModelProto:
    """Return the part of a graph that follows a tensor, which becomes the input ``new_name``.

    The tensor is float32 (batch, tokens, width). The new graph keeps the old one's outputs, and those of its
    inputs that the part reads.
    """
    made_by = {output: node for node in model.graph.node for output in node.output}
    needed: set[str] = set()
    waiting = [output.name for output in model.graph.output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name != tensor and name in made_by:
                waiting.extend(made_by[name].input)
    nodes = []
    for node in model.graph.node:
        if needed.intersection(node.output) and tensor not in node.output:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            kept.input[:] = [new_name if name == tensor else name for name in node.input]
            nodes.append(kept)
    hidden = helper.make_tensor_value_info(new_name, TensorProto.FLOAT, ["batch", "tokens", width])
    graph = helper.make_graph(
        nodes,
        "tail",
        [hidden, *(value for value in model.graph.input if value.name in needed)],
        list(model.graph.output),
        [constant for constant in model.graph.initializer if constant.name in needed],
    )
    cut = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(cut)
    return cut
