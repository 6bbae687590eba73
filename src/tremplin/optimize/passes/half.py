"""Weights in 16 bits, arithmetic in 32: the file is half as large and a load turns the weights back.

CPUs compute in 16 bits no faster than in 32, so this is for size alone; on a GPU the engine may keep the 16 bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tremplin.optimize.passes.graph import PassResult, Rewriter, read_graph

MIN_SIZE = 64
"""Smaller constants are left alone: they save nothing."""


class HalfWeights:
    """Every float32 constant of some size becomes float16 with a Cast behind it."""

    name = "half"

    def call(self, source: Path, destination: Path) -> PassResult:
        """Write the graph with 16-bit weights."""
        model = read_graph(source)
        rewriter = Rewriter(model)
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            # Beyond the range of float16, or where a constant means minus infinity, it stays.
            fits = tensor.data_type == TensorProto.FLOAT and values.size >= MIN_SIZE
            if fits and float(np.abs(values).max()) < float(np.finfo(np.float16).max):
                rewriter.drop_constant(tensor.name)
                rewriter.constant(f"{tensor.name}.half", values.astype(np.float16))
                rewriter.node("Cast", [f"{tensor.name}.half"], tensor.name, to=TensorProto.FLOAT)
        rewriter.rewrite(_keep)
        rewriter.save(destination)
        return PassResult(self.name, 0)


def _keep(node: onnx.NodeProto) -> bool:
    return False
