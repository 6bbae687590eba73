"""Tensors of the Open Inference Protocol, whichever way they come: their elements, checked and unpacked."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import InvalidText, MalformedBody

INTEGERS: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "INT32": np.dtype("<i4")}


@dataclass(frozen=True, slots=True)
class Input:
    """One input of an inference; make it with ``input_of``, which checks it."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any]
    """The elements, the last dimension running fastest."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output, computed."""

    name: str
    datatype: str
    shape: list[int]
    values: NDArray[np.float32] | list[str]


def input_of(name: str, datatype: str, shape: list[int], values: list[Any]) -> Input:
    """Return an input; raises MalformedBody when it has not as many elements as its shape says."""
    expected = math.prod(shape)  # NumPy's would wrap around at 2**63
    if len(values) != expected:
        raise MalformedBody(
            f"Input {name[:80]!r} has {len(values)} elements; its shape {shape} holds {expected}.",
            pointer="/inputs",
        )
    return Input(name, datatype, shape, values)


def unpack(name: str, datatype: str, part: memoryview) -> list[Any]:
    """Return the elements of a tensor in the protocol's binary form; raises BadInput errors."""
    if datatype == "BYTES":
        return _unpack_bytes(part)
    if datatype in INTEGERS:
        kind = INTEGERS[datatype]
        if len(part) % kind.itemsize:
            raise MalformedBody(f"Input {name[:80]!r}: {len(part)} bytes are not whole elements.")
        numbers: list[Any] = np.frombuffer(part, kind).tolist()
        return numbers
    raise MalformedBody(f"Input {name[:80]!r} is {datatype[:20]!r}; expected BYTES or INT64.")


def pack(output: Output) -> bytes:
    """Return an output in the protocol's binary form."""
    if isinstance(output.values, list):
        encoded = [value.encode() for value in output.values]
        return b"".join(struct.pack("<I", len(part)) + part for part in encoded)
    return output.values.astype("<f4").tobytes()


def decode(number: int, element: bytes) -> str:
    """Return the text of one element of a BYTES tensor; raises InvalidText when it is not UTF-8."""
    try:
        return element.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidText(
            f"Element {number} of the BYTES tensor is not UTF-8 (byte {error.start}).", pointer="/inputs"
        ) from None


def _unpack_bytes(part: memoryview) -> list[str]:
    """Each element is its length as a little-endian uint32, then its bytes."""
    texts: list[str] = []
    offset = 0
    while offset < len(part):
        if offset + 4 > len(part):
            raise MalformedBody("A BYTES tensor ends in the middle of a length.")
        (length,) = struct.unpack_from("<I", part, offset)
        offset += 4
        if offset + length > len(part):
            raise MalformedBody("A BYTES tensor ends in the middle of an element.")
        texts.append(decode(len(texts), bytes(part[offset : offset + length])))
        offset += length
    return texts
