"""Tensors in the protocol's messages: what is asked becomes inputs, what was computed becomes fields."""

from __future__ import annotations

from typing import Any

from tremplin.errors import MalformedBody
from tremplin.gateway.grpc.messages import Message
from tremplin.gateway.tensors import Input, Output, decode, input_of, pack, unpack

# Where the elements of a tensor are, unless they come raw.
CONTENTS = {
    "BYTES": "bytes_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "BOOL": "bool_contents",
    "FP32": "fp32_contents",
}

# What V2 over REST bounds by its schema.
MOST_DIMENSIONS = 8
LARGEST_DIMENSION = 1 << 31

Fields = dict[str, Any]


def inputs_of(request: Message) -> dict[str, Input]:
    """Return the inputs of a ModelInferRequest by name; raises BadInput errors."""
    raw = request.raw_input_contents
    if not request.inputs:
        raise MalformedBody("The request has no input; send 'text' (BYTES).", pointer="/inputs")
    if raw and len(raw) != len(request.inputs):
        raise MalformedBody(
            f"raw_input_contents has {len(raw)} elements for {len(request.inputs)} inputs; "
            "send one for each input, or none.",
            pointer="/inputs",
        )
    inputs = {}
    for number, tensor in enumerate(request.inputs):
        shape = _checked_shape(tensor)
        values = _typed(tensor) if not raw else _raw(tensor, raw[number])
        inputs[tensor.name] = input_of(tensor.name, tensor.datatype, shape, values)
    return inputs


def outputs_in(outputs: list[Output], *, is_raw: bool) -> Fields:
    """Return the fields of a ModelInferResponse that hold the outputs, raw or by type."""
    tensors = [{"name": output.name, "datatype": output.datatype, "shape": output.shape} for output in outputs]
    if is_raw:
        return {"outputs": tensors, "raw_output_contents": [pack(output) for output in outputs]}
    return {
        "outputs": [
            tensor | {"contents": {CONTENTS[output.datatype]: _elements(output)}}
            for tensor, output in zip(tensors, outputs, strict=True)
        ]
    }


def _checked_shape(tensor: Message) -> list[int]:
    shape = list(tensor.shape)
    if len(shape) > MOST_DIMENSIONS or not all(0 <= size < LARGEST_DIMENSION for size in shape):
        raise MalformedBody(
            f"Input {tensor.name[:80]!r}: a shape has at most {MOST_DIMENSIONS} dimensions, each from 0 to "
            f"{LARGEST_DIMENSION - 1:,}.",
            pointer="/inputs",
        )
    return shape


def _raw(tensor: Message, part: bytes) -> list[Any]:
    if tensor.HasField("contents"):
        raise MalformedBody(
            f"Input {tensor.name[:80]!r} has contents beside raw_input_contents; send one of the two.",
            pointer="/inputs",
        )
    return unpack(tensor.name, tensor.datatype, memoryview(part))


def _typed(tensor: Message) -> list[Any]:
    if tensor.datatype not in CONTENTS:
        raise MalformedBody(
            f"Input {tensor.name[:80]!r} is {tensor.datatype[:20]!r}; expected BYTES or INT64.", pointer="/inputs"
        )
    elements = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
    if tensor.datatype != "BYTES":
        return elements
    return [decode(number, element) for number, element in enumerate(elements)]


def _elements(output: Output) -> list[bytes] | list[float]:
    if isinstance(output.values, list):
        return [value.encode() for value in output.values]
    numbers: list[float] = output.values.ravel().tolist()
    return numbers
