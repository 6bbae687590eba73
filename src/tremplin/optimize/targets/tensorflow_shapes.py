"""Operators that move numbers without computing, in TensorFlow: shapes, look-ups, cuts, places."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np

from tremplin.errors import PassFailed
from tremplin.optimize.targets.tensorflow_call import Call, Operator, Value

NO_END = 2**31 - 1  # ONNX writes "to the end" as the largest integer


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


def _constant(call: Call) -> Value:
    from onnx import numpy_helper

    if "value" not in call.attributes:
        raise PassFailed("LiteRT: Constant is translated for a tensor only.")
    return numpy_helper.to_array(call.attributes["value"])


SHAPES: Mapping[str, Operator] = {
    "Concat": _concat,
    "Constant": _constant,
    "CumSum": _cumsum,
    "Gather": _gather,
    "Identity": lambda call: call.x,
    "NonZero": _non_zero,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
