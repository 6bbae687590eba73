"""Operators that compute, in TensorFlow: of numbers, of rows, of quantized numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from tremplin.errors import PassFailed
from tremplin.optimize.targets.tensorflow_call import Call, Operator, Scaled, Value, multiplied

# onnx.TensorProto.DataType -> name of TensorFlow's type.
TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}


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
    return tf.matmul(multiplied(tf, left), multiplied(tf, right))


def _is_by_column(weight: Scaled) -> bool:
    """Whether the scale can be multiplied into a product: one number, or one for each column."""
    return isinstance(weight.whole, np.ndarray) and np.ndim(weight.scale) <= 1


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


def _where(call: Call) -> Value:
    return call.tf.where(*call.inputs)


ARITHMETIC: Mapping[str, Operator] = {
    "Abs": _elementwise("abs"),
    "Add": _elementwise("add"),
    "And": _elementwise("logical_and"),
    "BitShift": _bit_shift,
    "BitwiseAnd": _bitwise_and,
    "Cast": _cast,
    "DequantizeLinear": _dequantize,
    "Div": _elementwise("divide"),
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Equal": _elementwise("equal"),
    "Exp": _elementwise("exp"),
    "Gelu": _gelu,
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
    "Not": _elementwise("logical_not"),
    "Or": _elementwise("logical_or"),
    "Pow": _elementwise("pow"),
    "QuantizeLinear": _quantize,
    "ReduceL2": _reduce_l2,
    "ReduceMax": _reduction("reduce_max"),
    "ReduceMean": _reduction("reduce_mean"),
    "ReduceMin": _reduction("reduce_min"),
    "ReduceSum": _reduction("reduce_sum"),
    "Relu": _relu,
    "Sigmoid": _elementwise("sigmoid"),
    "Softmax": _softmax,
    "Sqrt": _elementwise("sqrt"),
    "Sub": _elementwise("subtract"),
    "Tanh": _elementwise("tanh"),
    "Where": _where,
}
