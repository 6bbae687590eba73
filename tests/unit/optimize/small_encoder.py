"""A one-layer encoder with random weights and one outlier channel, small enough to quantize in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, WIDE, VOCABULARY = 32, 128, 200


def write_small_encoder(path: Path, *, seed: int = 0, outlier: float = 40.0) -> Path:
    """Write embed -> norm -> linear -> Gelu -> linear -> norm -> mean over tokens -> unit vector."""
    generator = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return generator.normal(0, shape[0] ** -0.5, shape).astype(np.float32)

    widen = weight(HIDDEN, WIDE)
    bias = np.zeros(WIDE, np.float32)
    bias[7] = outlier  # one channel of the activation is far larger than the rest, as in real encoders
    narrow = weight(WIDE, HIDDEN)
    constants = {
        "words": weight(VOCABULARY, HIDDEN) * 5,
        "gain": np.ones(HIDDEN, np.float32),
        "shift": np.zeros(HIDDEN, np.float32),
        "widen.weight": widen,
        "widen.bias": bias,
        "narrow.weight": narrow,
        "axis": np.array([1], np.int64),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["embedded"], name="embedded"),
        helper.make_node("LayerNormalization", ["embedded", "gain", "shift"], ["h"], name="h"),
        helper.make_node("MatMul", ["h", "widen.weight"], ["wide.mm"], name="wide.mm"),
        helper.make_node("Add", ["wide.mm", "widen.bias"], ["wide"], name="wide"),
        helper.make_node("Gelu", ["wide"], ["active"], name="active"),
        helper.make_node("MatMul", ["active", "narrow.weight"], ["out"], name="out"),
        helper.make_node("Add", ["out", "h"], ["residual"], name="residual"),
        helper.make_node("LayerNormalization", ["residual", "gain", "shift"], ["x"], name="x"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["x", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum", "axis"], ["norm"], keepdims=1),
        helper.make_node("Div", ["sum", "norm"], ["embedding"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", HIDDEN])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def random_rows(count: int, *, seed: int = 1) -> list[list[int]]:
    """Return rows of token ids of mixed lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1, VOCABULARY, generator.integers(3, 20)).tolist() for _ in range(count)]
