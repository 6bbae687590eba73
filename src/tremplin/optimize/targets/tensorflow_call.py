"""One node of an ONNX graph, as the functions that say it in TensorFlow get it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tremplin.errors import PassFailed

# A NumPy array while the value is a constant, else a tensor of TensorFlow, which is optional and so untyped here.
Value = Any


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


def multiplied(tf: ModuleType, value: Value) -> Value:
    """Return a value with its scale multiplied in."""
    if not isinstance(value, Scaled):
        return value
    if isinstance(value.whole, np.ndarray):
        return value.whole * value.scale
    return tf.multiply(value.whole, value.scale)
