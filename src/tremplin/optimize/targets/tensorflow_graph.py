"""Walks an ONNX graph and says it again in TensorFlow's operations, one node at a time.

The operators are those that Tremplin's own builder, heads and passes write; another one is refused by its name.

Int8 versions are computed on whole numbers held in float32. A product of two dequantized tensors is taken before
their scales are multiplied in, the order of integer kernels: sums of uint8 times int8 are exact in float32
up to 2**24, so the answers are those of real int8 arithmetic but for the last bit of a float. LiteRT's own int8
kernels would also quantize every output, for which a version has no ranges. The word table stays int8 in the file;
the other weights become floats there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import PassFailed
from tremplin.optimize.targets.tensorflow_arithmetic import ARITHMETIC
from tremplin.optimize.targets.tensorflow_call import Call, Operator, Value, multiplied
from tremplin.optimize.targets.tensorflow_shapes import SHAPES

if TYPE_CHECKING:
    import onnx

OPERATORS: Mapping[str, Operator] = {**ARITHMETIC, **SHAPES}


def check_operators(model: onnx.ModelProto) -> None:
    """Raise PassFailed naming every operator that cannot be said in TensorFlow."""
    if unknown := sorted({node.op_type for node in model.graph.node} - set(OPERATORS)):
        raise PassFailed(
            f"The graph has {', '.join(unknown)}, which Tremplin does not translate for LiteRT. Graphs that it "
            "builds itself have no such operator; this one was exported by torch or made elsewhere."
        )


def say_in_tensorflow(tf: ModuleType, model: onnx.ModelProto, feeds: Mapping[str, Value]) -> dict[str, Value]:
    """Return the graph's outputs for its inputs, as TensorFlow tensors; call it inside a ``tf.function``.

    Raises PassFailed for an operator that is not known here.
    """
    from onnx import helper, numpy_helper

    check_operators(model)
    values: dict[str, Value] = {
        tensor.name: _widened(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer
    }
    values |= feeds
    values[""] = None  # how ONNX writes an optional input that is not there
    for node in model.graph.node:
        inputs = [values[name] for name in node.input]
        if node.op_type != "MatMul":
            inputs = [multiplied(tf, value) for value in inputs]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        result = OPERATORS[node.op_type](Call(tf, node.op_type, inputs, attributes, len(node.output)))
        results = result if isinstance(result, list | tuple) else [result]
        values.update(zip(node.output, results, strict=True))
    return {
        output.name: tf.identity(multiplied(tf, values[output.name]), name=output.name)
        for output in model.graph.output
    }


def _widened(constant: NDArray[Any]) -> NDArray[Any]:
    """Return halves as floats: LiteRT looks nothing up in a table of float16."""
    return constant.astype(np.float32) if constant.dtype == np.float16 else constant
