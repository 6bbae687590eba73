"""Writes ONNX nodes one at a time, each under a name that says where it stands in the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tremplin.optimize.importing.encoder_weights import Linear, Norm

if TYPE_CHECKING:
    import onnx

# 21 has LayerNormalization (17), ReduceMax with axes as an input (18) and Gelu (20); ORT 1.31 runs them all.
OPSET = 21
IR_VERSION = 10  # the one published with opset 21

# onnx.TensorProto.DataType, written out so that importing this file does not import onnx.
FLOAT, INT64, BOOL = 1, 7, 9

ACTIVATION_OPERATORS = {
    "gelu": "Gelu", "gelu_tanh": "Gelu", "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid",
}  # fmt: skip

# Protobuf cannot hold 2 GiB in one message; the margin covers nodes and names.
MAX_ONE_FILE_BYTES = 2**31 - 2**24


class GraphWriter:
    """Collects nodes and initializers; tensors are handed around by name."""

    def __init__(self, model: onnx.ModelProto | None = None) -> None:
        """Start empty, or continue the graph of ``model`` (its outputs become ordinary tensors)."""
        self.nodes: list[onnx.NodeProto] = list(model.graph.node) if model else []
        self.initializers: list[onnx.TensorProto] = list(model.graph.initializer) if model else []
        self.opset_imports = list(model.opset_import) if model else None
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add a node with one output and return that output's name."""
        return self.split_node(op, inputs, [output], **attributes)[0]

    def split_node(self, op: str, inputs: list[str], outputs: list[str], **attributes: object) -> list[str]:
        """Add a node with several outputs and return their names."""
        from onnx import helper

        name = f"/{outputs[0].replace('.', '/')}/{op}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def weight(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """Store a learned tensor under its own name and return the name."""
        from onnx import numpy_helper

        # Not ascontiguousarray: it makes a scalar an array of one.
        self.initializers.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """Store a small constant once: the same values asked for again give the first name."""
        key = (values.dtype.str, values.tobytes(), values.shape)
        if key not in self._constants:
            self._constants[key] = self.weight(f"constants.{name}", values)
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """Return the name of an int64 constant of shape (len(values),)."""
        text = "_".join(str(value).replace("-", "minus") for value in values)
        return self.constant(f"int64_{text}", np.array(values, dtype=np.int64))

    def scalar(self, name: str, value: float) -> str:
        """Return the name of a float32 constant of shape ()."""
        return self.constant(name, np.array(value, dtype=np.float32))

    def linear(self, x: str, name: str, layer: Linear) -> str:
        """Add ``x @ weight + bias``; the weight is stored (in, out), as MatMul reads it."""
        product = self.node("MatMul", [x, self.weight(f"{name}.weight", layer.weight.T)], f"{name}.product")
        if layer.bias is None:
            return product
        return self.node("Add", [product, self.weight(f"{name}.bias", layer.bias)], f"{name}.sum")

    def layer_norm(self, x: str, name: str, norm: Norm, epsilon: float) -> str:
        """Add a layer normalisation over the last axis."""
        inputs = [x, self.weight(f"{name}.weight", norm.weight), self.weight(f"{name}.bias", norm.bias)]
        return self.node("LayerNormalization", inputs, f"{name}.normed", axis=-1, epsilon=epsilon)

    def activation(self, x: str, name: str, kind: str) -> str:
        """Add an activation: gelu, gelu_tanh (its approximation), relu, silu, tanh, sigmoid or identity."""
        if kind == "identity":
            return x
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}.gate")], name)
        attributes = {"approximate": "tanh"} if kind == "gelu_tanh" else {}
        return self.node(ACTIVATION_OPERATORS[kind], [x], name, **attributes)

    def model(
        self, inputs: list[str], outputs: dict[str, list[str | int]], metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """Return the finished model; ``outputs`` maps each float32 output to its shape, names for free axes.

        Inputs are int64 of shape (batch, tokens).
        """
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self.nodes,
            "tremplin",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.initializers,
        )
        imports = self.opset_imports or [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="tremplin")
        helper.set_model_props(model, metadata)
        return model


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write the model as one file; above 2 GiB the weights go to ``<name>.data`` beside it."""
    import onnx

    size_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size_bytes > MAX_ONE_FILE_BYTES:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        path.write_bytes(model.SerializeToString())
