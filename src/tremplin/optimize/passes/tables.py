"""Small tables: what is looked up and not multiplied is kept in few bits.

The word table and the table of bigrams in 8 or 4 bits with a scale for each row; positions and a head's weights in
16 bits, which engines turn back into floats when they load. Nothing is computed in fewer bits, so speed does not
change; a small encoder's file shrinks by half and more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tremplin.errors import PassFailed
from tremplin.optimize.passes.graph import PassResult, Rewriter, Weight, quantize_word_table, read_graph

TABLES = ("embeddings.word.weight", "embeddings.bigram.weight")
HALVES = ("embeddings.position.weight", "head.weight")


class SmallTables:
    """``word_bits`` 8 or 4; tables that are no longer float are left as they are."""

    def __init__(self, *, word_bits: int = 8, positions: int | None = None) -> None:
        if word_bits not in (4, 8):
            raise PassFailed(f"A word table can be kept in 8 or 4 bits, not {word_bits}.")
        self._bits = word_bits
        self._positions = positions

    @property
    def name(self) -> str:
        """The pass with its options."""
        return f"tables{self._bits}"

    def call(self, source: Path, destination: Path) -> PassResult:
        """Write the graph with smaller tables."""
        model = read_graph(source)
        floats = {
            tensor.name: np.array(numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
            if tensor.name in TABLES + HALVES and tensor.data_type == TensorProto.FLOAT
        }
        rewriter = Rewriter(model)

        def replace(node: onnx.NodeProto) -> bool:
            table = node.input[0] if node.input else ""
            if node.op_type != "Gather" or table not in floats or table not in TABLES:
                return False
            if self._bits == 4 and floats[table].shape[1] % 2 == 0:
                _look_up_nibbles(rewriter, node, floats[table])
            else:
                quantize_word_table(rewriter, node, floats[table])
            return True

        for name in HALVES:
            if name in floats:
                values = floats[name]
                if name.startswith("embeddings.position") and self._positions is not None:
                    values = values[: self._positions]
                rewriter.drop_constant(name)
                rewriter.constant(f"{name}.half", values.astype(np.float16))
                rewriter.node("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)
        rewriter.rewrite(replace)
        rewriter.save(destination)
        return PassResult(self.name, 0)


def _look_up_nibbles(rewriter: Rewriter, node: onnx.NodeProto, table: Weight) -> None:
    """Replace a look-up by one in rows of 4-bit numbers, two in a byte: the first half of a row, then the second.

    Symmetric in 15 steps, with the scale of each row that loses least of five tried.
    """
    name, ids, out = node.input[0], node.input[1], node.output[0]
    steps, scale = nibbles(table)
    half = table.shape[1] // 2
    packed = (steps[:, :half] | (steps[:, half:] << 4)).astype(np.uint8)
    rewriter.drop_constant(name)
    rewriter.constant(f"{name}.int4", packed)
    rewriter.constant(f"{name}.scale", scale.astype(np.float16))
    rewriter.constant(f"{name}.low", np.array(15, np.uint8))
    rewriter.constant(f"{name}.four", np.array(4, np.uint8))
    rewriter.constant(f"{name}.middle", np.array(8, np.float32))
    rows = rewriter.node("Gather", [f"{name}.int4", ids], f"{out}.int4")
    low = rewriter.node("BitwiseAnd", [rows, f"{name}.low"], f"{out}.first")
    high = rewriter.node("BitShift", [rows, f"{name}.four"], f"{out}.second", direction="RIGHT")
    both = rewriter.node("Concat", [low, high], f"{out}.steps", axis=-1)
    floats = rewriter.node("Cast", [both], f"{out}.float", to=TensorProto.FLOAT)
    centred = rewriter.node("Sub", [floats, f"{name}.middle"], f"{out}.centred")
    halves = rewriter.node("Gather", [f"{name}.scale", ids], f"{out}.scale_half")
    scales = rewriter.node("Cast", [halves], f"{out}.scale", to=TensorProto.FLOAT)
    rewriter.node("Mul", [centred, scales], out)


def nibbles(table: Weight) -> tuple[NDArray[np.uint8], Weight]:
    """Return steps (rows, width) in 1..15, where 8 is 0, and scales (rows, 1): table ~ (steps - 8) * scale."""
    reach = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12)
    best_steps, best_scale = np.zeros_like(table), np.ones_like(reach)
    best_error = np.full_like(reach, np.inf)
    for share in (1.0, 0.9, 0.8, 0.7, 0.6):
        scale = (reach * share / 7).astype(np.float16).astype(np.float32)
        scale = np.maximum(scale, np.float32(6e-8))
        steps = np.clip(np.rint(table / scale), -7, 7)
        error = ((steps * scale - table) ** 2).sum(axis=1, keepdims=True)
        better = error < best_error
        best_steps, best_scale = np.where(better, steps, best_steps), np.where(better, scale, best_scale)
        best_error = np.minimum(error, best_error)
    return (best_steps + 8).astype(np.uint8), best_scale
