"""Walks an ONNX graph and says it again in TensorFlow's operations, one node at a time.

The operators are those that Tremplin's own builder, heads and passes write; another one is refused by its name.

Int8 versions are computed on whole numbers held in float32. A product of two dequantized tensors is taken before
their scales are multiplied in, the order of integer kernels: sums of uint8 times int8 are exact in float32
up to 2**24, so the answers are those of real int8 arithmetic but for the last bit of a float. LiteRT's own int8
kernels would also quantize every output, for which a version has no ranges. The word table stays int8 in the file;
the other weights become floats there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import PassFailed

if TYPE_CHECKING:
    import onnx

# A NumPy array while the value is a constant, else a tensor of TensorFlow, which is optional and so untyped here.
Value = Any

# onnx.TensorProto.DataType -> name of TensorFlow's type.
TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}

NO_END = 2**31 - 1  # ONNX writes "to the end" as the largest integer


@dataclass(frozen=True)
class Scaled:
    """Whole numbers in float32 and the scale they stand for, not multiplied in yet."""

    whole: Value
    scale: Value
    """() or, for a weight, (columns,)."""


@dataclass(frozen=True)
class Call:
    """One node to be said in TensorFlow."""

    tf: ModuleType
    op: str
    inputs: Sequence[Value]
    attributes: Mapping[str, Any]
    outputs: int

    @property
    def x(self) -> Value:
        """The first input."""
        return self.inputs[0]

    def optional(self, index: int) -> Value:
        """Return an input, None when the node does not have it."""
        return self.inputs[index] if index < len(self.inputs) else None

    def integers(self, index: int, attribute: str = "") -> list[int] | None:
        """Return an input that must be constant, or the attribute that older opsets have, as integers."""
        given = self.optional(index)
        if given is None:
            given = self.attributes.get(attribute)
        if given is None:
            return None
        if not isinstance(given, np.ndarray | list | tuple | int):
            raise PassFailed(f"LiteRT: {self.op} has an input that is not constant where one is expected.")
        return [int(value) for value in np.atleast_1d(np.asarray(given))]


Operator = Callable[[Call], Value]


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
            inputs = [_multiplied(tf, value) for value in inputs]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        result = OPERATORS[node.op_type](Call(tf, node.op_type, inputs, attributes, len(node.output)))
        results = result if isinstance(result, list | tuple) else [result]
        values.update(zip(node.output, results, strict=True))
    return {
        output.name: tf.identity(_multiplied(tf, values[output.name]), name=output.name)
        for output in model.graph.output
    }


def _widened(constant: NDArray[Any]) -> NDArray[Any]:
    """Return halves as floats: LiteRT looks nothing up in a table of float16."""
    return constant.astype(np.float32) if constant.dtype == np.float16 else constant


def _multiplied(tf: ModuleType, value: Value) -> Value:
    """Return a value with its scale multiplied in."""
    if not isinstance(value, Scaled):
        return value
    if isinstance(value.whole, np.ndarray):
        return value.whole * value.scale
    return tf.multiply(value.whole, value.scale)


# -- one after another ---------------------------------------------------------------------------------


def _elementwise(name: str) -> Operator:
    return lambda call: getattr(call.tf.math, name)(*call.inputs)


def _variadic(name: str) -> Operator:
    return lambda call: reduce(getattr(call.tf.math, name), call.inputs)


def _reduction(name: str) -> Operator:
    def emit(call: Call) -> Value:
        return getattr(call.tf, name)(call.x, axis=_axes(call), keepdims=bool(call.attributes.get("keepdims", 1)))

    return emit


def _axes(call: Call) -> list[int] | None:
    axes = call.integers(1, "axes")
    if not axes and call.attributes.get("noop_with_empty_axes"):
        raise PassFailed(f"LiteRT: {call.op} without axes that reduces nothing is not translated.")
    return axes or None


def _reduce_l2(call: Call) -> Value:
    tf = call.tf
    keep = bool(call.attributes.get("keepdims", 1))
    return tf.sqrt(tf.reduce_sum(tf.square(call.x), axis=_axes(call), keepdims=keep))


def _lp_normalization(call: Call) -> Value:
    tf, axis = call.tf, int(call.attributes.get("axis", -1))
    if call.attributes.get("p", 2) != 2:
        raise PassFailed("LiteRT: LpNormalization is translated for p = 2 only.")
    return call.x / tf.sqrt(tf.reduce_sum(tf.square(call.x), axis=axis, keepdims=True))


def _cast(call: Call) -> Value:
    return call.tf.cast(call.x, TYPES[call.attributes["to"]])


def _softmax(call: Call) -> Value:
    return call.tf.nn.softmax(call.x, axis=int(call.attributes.get("axis", -1)))


def _relu(call: Call) -> Value:
    return call.tf.nn.relu(call.x)


def _gelu(call: Call) -> Value:
    return call.tf.nn.gelu(call.x, approximate=call.attributes.get("approximate", b"none") == b"tanh")


def _layer_normalization(call: Call) -> Value:
    tf, x = call.tf, call.x
    rank = len(x.shape)
    axes = list(range(int(call.attributes.get("axis", -1)) % rank, rank))
    mean = tf.reduce_mean(x, axis=axes, keepdims=True)
    centred = x - mean
    variance = tf.reduce_mean(tf.square(centred), axis=axes, keepdims=True)
    normed = centred * tf.math.rsqrt(variance + np.float32(call.attributes.get("epsilon", 1e-5)))
    scaled = normed * call.inputs[1]
    return scaled if call.optional(2) is None else scaled + call.inputs[2]


def _matmul(call: Call) -> Value:
    tf = call.tf
    left, right = call.inputs
    if isinstance(left, Scaled) and isinstance(right, Scaled) and _is_by_column(right):
        whole = tf.matmul(left.whole, right.whole)
        return whole * (left.scale * np.asarray(right.scale))
    return tf.matmul(_multiplied(tf, left), _multiplied(tf, right))


def _is_by_column(weight: Scaled) -> bool:
    """Whether the scale can be multiplied into a product: one number, or one for each column."""
    return isinstance(weight.whole, np.ndarray) and np.ndim(weight.scale) <= 1


# -- quantization --------------------------------------------------------------------------------------


def _quantize(call: Call) -> Value:
    """Return whole numbers in float32; their type is what the zero point says, uint8 without one."""
    tf, scale, zero = call.tf, _alone(call.inputs[1]), call.optional(2)
    kind = np.iinfo(np.uint8 if zero is None else zero.dtype)
    offset = np.float32(0) if zero is None else np.asarray(_alone(zero), np.float32)
    return tf.clip_by_value(tf.round(call.x / scale) + offset, np.float32(kind.min), np.float32(kind.max))


def _dequantize(call: Call) -> Value:
    x, scale, zero = call.x, _alone(call.inputs[1]), _alone(call.optional(2))
    zero = np.asarray(0 if zero is None else zero, np.float32)
    if not isinstance(x, np.ndarray):
        if np.ndim(scale):
            raise PassFailed("LiteRT: an activation is dequantized by channel, which is not translated.")
        return Scaled(x - zero, scale)
    axis = int(call.attributes.get("axis", 1)) % x.ndim
    by_axis = [-1 if index == axis else 1 for index in range(x.ndim)]
    whole = x.astype(np.float32) - (zero.reshape(by_axis) if zero.ndim else zero)
    if np.ndim(scale) and axis != x.ndim - 1:  # not by column: a product cannot take it afterwards
        return whole * scale.reshape(by_axis)
    return Scaled(whole, scale)


def _alone(values: Value) -> Value:
    """Return a constant of one number as a scalar: the passes write them with shape (1,)."""
    return values.reshape(()) if isinstance(values, np.ndarray) and values.size == 1 else values


def _dynamic_quantize(call: Call) -> Value:
    """Return whole numbers in float32, scale and zero point, from the range of this very tensor."""
    tf, x = call.tf, call.x
    low = tf.minimum(tf.reduce_min(x), np.float32(0))
    high = tf.maximum(tf.reduce_max(x), np.float32(0))
    scale = (high - low) / np.float32(255)
    zero = tf.clip_by_value(tf.round(-low / scale), np.float32(0), np.float32(255))
    return [tf.clip_by_value(tf.round(x / scale) + zero, np.float32(0), np.float32(255)), scale, zero]


def _matmul_integer(call: Call) -> Value:
    tf = call.tf
    left, right = call.x, call.inputs[1]
    if call.optional(2) is not None:
        left = left - call.inputs[2]
    right = right.astype(np.float32) if isinstance(right, np.ndarray) else right
    if call.optional(3) is not None:
        right = right - np.asarray(call.inputs[3], np.float32)
    return tf.matmul(left, right)


# -- shapes ----------------------------------------------------------------------------------------------


def _shape(call: Call) -> Value:
    start, end = call.attributes.get("start", 0), call.attributes.get("end")
    return call.tf.shape(call.x, out_type=call.tf.int64)[start:end]


def _reshape(call: Call) -> Value:
    tf, x, shape = call.tf, call.x, call.inputs[1]
    if not isinstance(shape, np.ndarray):
        return tf.reshape(x, tf.cast(shape, tf.int32))
    copies = not call.attributes.get("allowzero", 0)
    sizes = [_size(tf, x, axis) if size == 0 and copies else int(size) for axis, size in enumerate(shape.tolist())]
    return tf.reshape(x, sizes if all(isinstance(size, int) for size in sizes) else tf.stack(sizes))


def _size(tf: ModuleType, x: Value, axis: int) -> Value:
    """Return one size of a tensor: a number when it is known, else a scalar tensor."""
    known = x.shape[axis]
    return int(known) if known is not None else tf.shape(x)[axis]


def _transpose(call: Call) -> Value:
    return call.tf.transpose(call.x, call.attributes.get("perm"))


def _concat(call: Call) -> Value:
    return call.tf.concat(list(call.inputs), axis=int(call.attributes["axis"]))


def _split(call: Call) -> Value:
    axis, sizes = int(call.attributes.get("axis", 0)), call.integers(1, "split")
    if sizes is None:
        total = call.x.shape[axis]
        if total is None:
            raise PassFailed("LiteRT: Split along an axis of unknown size is not translated.")
        each = -(-int(total) // call.outputs)  # the last part is the smaller one
        sizes = [each] * (call.outputs - 1) + [int(total) - each * (call.outputs - 1)]
    return call.tf.split(call.x, sizes, axis=axis)


def _squeeze(call: Call) -> Value:
    return call.tf.squeeze(call.x, axis=call.integers(1, "axes"))


def _unsqueeze(call: Call) -> Value:
    x, axes = call.x, call.integers(1, "axes") or []
    rank = len(x.shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = call.tf.expand_dims(x, axis)
    return x


def _gather(call: Call) -> Value:
    tf, ids = call.tf, call.inputs[1]
    axis = int(call.attributes.get("axis", 0))
    if isinstance(ids, np.ndarray) and (ids < 0).any():  # from the end
        size = call.x.shape[axis]
        if size is None:
            raise PassFailed("LiteRT: Gather from the end of an axis of unknown size is not translated.")
        ids = np.where(ids < 0, ids + size, ids)
    return tf.gather(call.x, ids, axis=axis)


def _slice(call: Call) -> Value:
    tf, x = call.tf, call.x
    starts, ends = _bounds(tf, call.inputs[1]), _bounds(tf, call.inputs[2])
    axes = call.integers(3) or list(range(len(starts)))
    steps = call.integers(4) or [1] * len(axes)
    parts = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        is_whole = isinstance(end, int) and end >= NO_END
        parts[axis] = slice(start, None if is_whole else end, step)
    return tf.convert_to_tensor(x)[tuple(parts)]


def _bounds(tf: ModuleType, given: Value) -> list[Value]:
    """Return the ends of a slice, one for each axis: numbers when they are constant, else scalar tensors."""
    if isinstance(given, np.ndarray):
        return [int(value) for value in given]
    return [tf.cast(given[index], tf.int32) for index in range(int(given.shape[0]))]


def _pad(call: Call) -> Value:
    """Pad with one value; a negative pad cuts off, for which TensorFlow has slices."""
    tf, x = call.tf, call.x
    pads = call.integers(1, "pads") or []
    if call.attributes.get("mode", b"constant") != b"constant" or call.optional(3) is not None:
        raise PassFailed("LiteRT: Pad is translated for one value on all axes only.")
    rank = len(x.shape)
    pairs = list(zip(pads[:rank], pads[rank:], strict=True))
    if any(pad < 0 for pair in pairs for pad in pair):
        x = x[tuple(slice(max(-before, 0), min(after, 0) or None) for before, after in pairs)]
    value = call.optional(2)
    grown = [[max(before, 0), max(after, 0)] for before, after in pairs]
    return tf.pad(x, grown, constant_values=0 if value is None else value)


def _mod(call: Call) -> Value:
    if call.attributes.get("fmod", 0):
        raise PassFailed("LiteRT: Mod is translated with the divisor's sign only.")
    return call.tf.math.floormod(*call.inputs)


def _bitwise_and(call: Call) -> Value:
    """Keep the lowest bits; LiteRT has no operator for it, a remainder gives the same."""
    mask = call.inputs[1]
    if not isinstance(mask, np.ndarray) or mask.size != 1 or int(mask.item()) & (int(mask.item()) + 1):
        raise PassFailed("LiteRT: BitwiseAnd is translated for a mask of the lowest bits only.")
    tf = call.tf
    return tf.math.floormod(tf.cast(call.x, tf.int32), int(mask.item()) + 1)


def _bit_shift(call: Call) -> Value:
    """Drop the lowest bits, by a division."""
    shift = call.inputs[1]
    if call.attributes.get("direction") != b"RIGHT" or not isinstance(shift, np.ndarray) or shift.size != 1:
        raise PassFailed("LiteRT: BitShift is translated to the right and by one number only.")
    tf = call.tf
    return tf.math.floordiv(tf.cast(call.x, tf.int32), 2 ** int(shift.item()))


def _range(call: Call) -> Value:
    return call.tf.range(*call.inputs)


def _cumsum(call: Call) -> Value:
    (axis,) = call.integers(1) or [0]
    exclusive, reverse = (bool(call.attributes.get(name, 0)) for name in ("exclusive", "reverse"))
    return call.tf.cumsum(call.x, axis=axis, exclusive=exclusive, reverse=reverse)


def _non_zero(call: Call) -> Value:
    return call.tf.transpose(call.tf.where(call.x))


def _scatter(call: Call) -> Value:
    """Put rows in their places: LiteRT scatters into zeros, so what is overwritten is cleared first."""
    tf, x = call.tf, call.x
    places, rows = call.inputs[1], call.inputs[2]
    if call.attributes.get("reduction", b"none") != b"none":
        raise PassFailed("LiteRT: ScatterND is translated for overwriting only.")
    shape = tf.shape(x, out_type=tf.int32)
    places = tf.cast(places, tf.int32)
    is_overwritten = tf.scatter_nd(places, tf.ones_like(rows), shape) > 0
    return tf.where(is_overwritten, tf.scatter_nd(places, rows, shape), x)


def _where(call: Call) -> Value:
    return call.tf.where(*call.inputs)


def _constant(call: Call) -> Value:
    from onnx import numpy_helper

    if "value" not in call.attributes:
        raise PassFailed("LiteRT: Constant is translated for a tensor only.")
    return numpy_helper.to_array(call.attributes["value"])


OPERATORS: Mapping[str, Operator] = {
    "Abs": _elementwise("abs"),
    "Add": _elementwise("add"),
    "And": _elementwise("logical_and"),
    "BitShift": _bit_shift,
    "BitwiseAnd": _bitwise_and,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "CumSum": _cumsum,
    "DequantizeLinear": _dequantize,
    "Div": _elementwise("divide"),
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Equal": _elementwise("equal"),
    "Exp": _elementwise("exp"),
    "Gather": _gather,
    "Gelu": _gelu,
    "Identity": lambda call: call.x,
    "LayerNormalization": _layer_normalization,
    "Less": _elementwise("less"),
    "Log": _elementwise("log"),
    "LpNormalization": _lp_normalization,
    "MatMul": _matmul,
    "MatMulInteger": _matmul_integer,
    "Max": _variadic("maximum"),
    "Min": _variadic("minimum"),
    "Mod": _mod,
    "Mul": _elementwise("multiply"),
    "Neg": _elementwise("negative"),
    "NonZero": _non_zero,
    "Not": _elementwise("logical_not"),
    "Or": _elementwise("logical_or"),
    "Pad": _pad,
    "Pow": _elementwise("pow"),
    "QuantizeLinear": _quantize,
    "Range": _range,
    "ReduceL2": _reduce_l2,
    "ReduceMax": _reduction("reduce_max"),
    "ReduceMean": _reduction("reduce_mean"),
    "ReduceMin": _reduction("reduce_min"),
    "ReduceSum": _reduction("reduce_sum"),
    "Relu": _relu,
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Shape": _shape,
    "Sigmoid": _elementwise("sigmoid"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _elementwise("sqrt"),
    "Squeeze": _squeeze,
    "Sub": _elementwise("subtract"),
    "Tanh": _elementwise("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
