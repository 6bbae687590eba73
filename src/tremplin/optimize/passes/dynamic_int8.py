"""Dynamic int8: activations are measured in each batch, per tensor.

It needs no calibration text, and an answer depends on its batch neighbours: one long text stretches the
range that all share (on CLINC150, 3 to 6 answers in 1,024 flip between batch 1 and 32). It is tried so that the
others can be compared with what most tools do by default.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from tremplin.errors import PassFailed
from tremplin.optimize.passes.graph import (
    PassResult,
    Rewriter,
    linears,
    quantize_columns,
    quantize_word_table,
    read_graph,
    word_table,
)


class DynamicInt8:
    """Weights int8 per column, activations uint8 with a range taken from each batch."""

    name = "dynamic-int8"

    def call(self, source: Path, destination: Path) -> PassResult:
        """Write the quantized graph."""
        model = read_graph(source)
        found = {linear.output: linear for linear in linears(model)}
        if not found:
            raise PassFailed("The graph has no float32 matrix product to quantize.")
        table = word_table(model)
        rewriter = Rewriter(model)
        measured: set[str] = set()

        def replace(node: onnx.NodeProto) -> bool:
            if table is not None and node.output[0] == table[0].output[0]:
                quantize_word_table(rewriter, node, table[1])
                return True
            linear = found.get(node.output[0])
            if linear is None:
                return False
            x, out = linear.input, linear.output
            if x not in measured:
                measured.add(x)
                rewriter.nodes("DynamicQuantizeLinear", [x], [f"{x}.u8", f"{x}.scale", f"{x}.zero"])
            weights, scale = quantize_columns(linear.weight)
            rewriter.drop_constant(linear.weight_name)
            rewriter.constant(f"{linear.weight_name}.int8", weights)
            rewriter.constant(f"{linear.weight_name}.scale", scale)
            rewriter.node("MatMulInteger", [f"{x}.u8", f"{linear.weight_name}.int8", f"{x}.zero"], f"{out}.int32")
            rewriter.node("Cast", [f"{out}.int32"], f"{out}.float", to=TensorProto.FLOAT)
            rewriter.node("Mul", [f"{x}.scale", f"{linear.weight_name}.scale"], f"{out}.scale")
            rewriter.node("Mul", [f"{out}.float", f"{out}.scale"], out)
            return True

        rewriter.rewrite(replace)
        rewriter.save(destination)
        return PassResult(self.name, len(found))
