"""The Open Inference Protocol, version 2, over REST, with its binary tensor extension.

Texts come as BYTES in the input ``text``, pairs of texts for a cross-encoder in rows of two; token ids as INT64 in
``input_ids``, ``attention_mask`` and ``token_type_ids``.
Source: kserve/open-inference-protocol `inference_rest.md` and Triton's binary data extension; checked with
tritonclient's HTTP client.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tremplin import __version__
from tremplin.errors import InvalidText, MalformedBody, UnknownModel, UnknownName
from tremplin.gateway.bodies import Reply, parse, respond, server_timing
from tremplin.gateway.endpoint import Endpoint, HotRequest
from tremplin.gateway.problems import Dialect
from tremplin.gateway.state import ServerState
from tremplin.monitor.metrics import Metrics
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.call import Call
from tremplin.serve.deploy import Deployment
from tremplin.serve.infer import Inference, Inferencer
from tremplin.serve.services import Services
from tremplin.serve.timing import Timings

HEADER_LENGTH = b"inference-header-content-length"

# The outputs a task's caller may ask for, with their type; labels are text.
OUTPUTS: dict[Task, dict[str, str]] = {
    Task.EMBEDDING: {"embedding": "FP32"},
    Task.SPARSE_EMBEDDING: {"sparse_embedding": "FP32"},
    Task.CLASSIFICATION: {"probabilities": "FP32", "label": "BYTES"},
    Task.RERANKING: {"scores": "FP32"},
}


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")


class InputTensor(_Message):
    """One input of an inference."""

    name: str
    shape: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(max_length=8)
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class RequestedOutput(_Message):
    """One output the caller wants."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(_Message):
    """POST /v2/models/{model}/infer"""

    id: str | None = None
    inputs: list[InputTensor] = Field(min_length=1)
    outputs: list[RequestedOutput] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)


class IndexRequest(_Message):
    """POST /v2/repository/index"""

    ready: bool = False
    """Only versions that serve."""


class LoadParameters(_Message):
    """What we take of Triton's load parameters, and the version to load."""

    version: str | None = None


class LoadRequest(_Message):
    """POST /v2/repository/models/{model}/load"""

    parameters: LoadParameters = Field(default_factory=LoadParameters)


class UnloadRequest(_Message):
    """POST /v2/repository/models/{model}/unload; what Triton's clients say in it concerns ensembles only."""


@dataclass(frozen=True)
class _Output:
    """One output, computed."""

    name: str
    datatype: str
    shape: list[int]
    values: NDArray[np.float32] | list[str]
    is_binary: bool


def endpoints(
    services: Services, metrics: Metrics, state: ServerState, deployment: Deployment, registry: Registry
) -> tuple[Endpoint, ...]:
    """Return the protocol's routes."""

    async def server_metadata(request: Request) -> Response:
        return respond(
            {"name": "tremplin", "version": __version__, "extensions": ["binary_tensor_data", "model_repository"]},
        )

    async def live(request: Request) -> Response:
        return respond({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = state.name == "ready"
        return respond({"ready": is_ready}, 200 if is_ready else 503)

    async def model_metadata(request: Request) -> Response:
        return respond(_metadata(_find(services, request.path_params)))

    async def model_ready(request: Request) -> Response:
        inferencer = _find(services, request.path_params)
        is_ready = state.name == "ready" and inferencer.engine.health()
        return respond({"name": inferencer.manifest.model, "ready": is_ready}, 200 if is_ready else 503)

    async def index(request: Request) -> Response:
        body = parse(await request.body() or b"{}", IndexRequest)
        return respond(await asyncio.to_thread(_index, registry, services, is_ready_only=body.ready))

    async def load(request: Request) -> Response:
        body = parse(await request.body() or b"{}", LoadRequest)
        await deployment.load(request.path_params["model"], body.parameters.version)
        return respond({})

    async def unload(request: Request) -> Response:
        await deployment.unload(request.path_params["model"])
        return respond({})

    async def infer(request: HotRequest) -> Reply:
        inferencer = _find(services, request.parameters)
        body, binary = _split(request.body, request.headers.get(HEADER_LENGTH))
        wanted = _wanted(body, inferencer)
        inputs = {tensor.name: tensor for tensor in body.inputs}
        values = _values(body.inputs, binary)
        inference = await infer_inputs(inferencer, inputs, values, request.call)
        metrics.phases(inference.timings)
        outputs = [_output(name, is_binary, inferencer, inference) for name, is_binary in wanted]
        return _reply(body, inferencer, outputs, inference.timings)

    def both(method: str, suffix: str, summary: str, **rest: Any) -> list[Endpoint]:
        return [
            Endpoint(method, f"/v2/models/{{model}}{middle}{suffix}", Dialect.V2, summary, **rest)
            for middle in ("", "/versions/{version}")
        ]

    return (
        Endpoint("GET", "/v2", Dialect.V2, "Describe the server", server_metadata),
        Endpoint("GET", "/v2/health/live", Dialect.V2, "Whether the process lives", live, public=True),
        Endpoint("GET", "/v2/health/ready", Dialect.V2, "Whether to send requests here", ready, public=True),
        *both("GET", "", "Describe a model", handler=model_metadata),
        *both("GET", "/ready", "Whether a model can answer", handler=model_ready),
        *both("POST", "/infer", "Run a model", hot=infer, body=InferRequest),
        Endpoint(
            "POST", "/v2/repository/index", Dialect.V2, "List the versions there are", index, body=IndexRequest
        ),
        Endpoint(
            "POST", "/v2/repository/models/{model}/load", Dialect.V2, "Serve a version of a model", load,
            body=LoadRequest, operators=True,
        ),
        Endpoint(
            "POST", "/v2/repository/models/{model}/unload", Dialect.V2, "Serve a model no more", unload,
            body=UnloadRequest, operators=True,
        ),
    )  # fmt: skip


async def infer_inputs(
    inferencer: Inferencer, inputs: Mapping[str, InputTensor], values: Mapping[str, list[Any]], call: Call
) -> Inference:
    """Return what a version answers to the inputs of a request; ``values`` are their elements, in order."""
    if "text" in inputs:
        texts = _texts(inputs["text"], values["text"])
        if inferencer.manifest.interface.task is Task.RERANKING:
            return await inferencer.infer_pairs(_pairs(inputs["text"], texts), call)
        return await inferencer.infer(texts, call)
    if "input_ids" not in inputs:
        raise MalformedBody("No input is named 'text' (BYTES) or 'input_ids' (INT64).", pointer="/inputs")
    rows = _token_rows(inputs, values, "input_ids")
    types = _token_rows(inputs, values, "token_type_ids") if "token_type_ids" in inputs else None
    if types is not None and not inferencer.manifest.interface.needs_token_type_ids:
        if any(map(any, types)):
            raise MalformedBody(
                "token_type_ids holds others than 0, and this model reads none.", pointer="/inputs"
            )
        types = None
    if types is not None and any(number not in (0, 1) for row in types for number in row):
        raise MalformedBody(
            "token_type_ids must hold 0 for the first text and 1 for the second.", pointer="/inputs"
        )
    return await inferencer.infer_ids(rows, call, types=types)


def _index(registry: Registry, services: Services, *, is_ready_only: bool) -> list[dict[str, str]]:
    """Every version of the registry, and whether it serves now. Reads files."""
    healthy = {inferencer.manifest.ref: inferencer.engine.health() for inferencer in services.fleet.inferencers}
    rows = []
    for model in registry.models():
        for manifest in registry.versions(model):
            is_ready = healthy.get(manifest.ref, False)
            if is_ready or not is_ready_only:
                reason = "" if is_ready else ("unhealthy" if manifest.ref in healthy else "not loaded")
                state = "READY" if is_ready else "UNAVAILABLE"
                rows.append({"name": model, "version": manifest.version, "state": state, "reason": reason})
    return rows


def _find(services: Services, parameters: Mapping[str, str]) -> Inferencer:
    name = parameters["model"]
    version = parameters.get("version")
    inferencer = services.fleet.find(name, *OUTPUTS)
    if version is not None and version != inferencer.manifest.version:
        raise UnknownModel(
            f"Model {name[:80]!r} is served as version {inferencer.manifest.version}, not {version[:80]!r}."
        )
    return inferencer


def _metadata(inferencer: Inferencer) -> dict[str, object]:
    interface = inferencer.manifest.interface
    widths = {
        "embedding": [-1, interface.embedding_dim or -1],
        "sparse_embedding": [-1, interface.vocab_size],
        "probabilities": [-1, len(interface.labels)],
        "label": [-1],
        "scores": [-1, 1],
    }
    return {
        "name": inferencer.manifest.model,
        "versions": [inferencer.manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1, 2] if interface.task is Task.RERANKING else [-1]}
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": widths[name]}
            for name, datatype in OUTPUTS[interface.task].items()
        ],
        "parameters": {"labels": list(interface.labels), "precision": inferencer.manifest.precision},
    }


def _split(payload: bytes, header_length: bytes | None) -> tuple[InferRequest, memoryview]:
    """Return the JSON part and the binary part that follows it, when there is one."""
    if header_length is None:
        return parse(payload, InferRequest), memoryview(b"")
    is_number = header_length.isdigit() and len(header_length) < 20
    if not is_number or int(header_length) > len(payload):
        given = header_length.decode("latin-1")[:20]
        raise MalformedBody(f"{HEADER_LENGTH.decode()} is {given!r}; expected at most {len(payload)}.")
    length = int(header_length)
    return parse(payload[:length], InferRequest), memoryview(payload)[length:]


def _values(tensors: list[InputTensor], binary: memoryview) -> dict[str, list[Any]]:
    """Return each input's elements, from JSON or from its slice of the binary part, in order."""
    values: dict[str, list[Any]] = {}
    offset = 0
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            values[tensor.name] = _flat(tensor.data or [])
        else:
            if not isinstance(size, int) or size < 0 or offset + size > len(binary):
                raise MalformedBody(f"Input {tensor.name[:80]!r} announces more binary data than was sent.")
            values[tensor.name] = _unpack(tensor, binary[offset : offset + size])
            offset += size
        expected = math.prod(tensor.shape)  # NumPy's would wrap around at 2**63
        if len(values[tensor.name]) != expected:
            raise MalformedBody(
                f"Input {tensor.name[:80]!r} has {len(values[tensor.name])} elements; its shape "
                f"{tensor.shape} holds {expected}.",
                pointer="/inputs",
            )
    return values


def _flat(data: list[Any]) -> list[Any]:
    return [element for part in data for element in (_flat(part) if isinstance(part, list) else [part])]


def _unpack(tensor: InputTensor, part: memoryview) -> list[Any]:
    if tensor.datatype == "BYTES":
        return _unpack_bytes(part)
    if tensor.datatype in ("INT64", "INT32"):
        kind = np.dtype("<i8" if tensor.datatype == "INT64" else "<i4")
        if len(part) % kind.itemsize:
            raise MalformedBody(f"Input {tensor.name[:80]!r}: {len(part)} bytes are not whole elements.")
        numbers: list[Any] = np.frombuffer(part, kind).tolist()
        return numbers
    raise MalformedBody(f"Input {tensor.name[:80]!r} is {tensor.datatype[:20]!r}; expected BYTES or INT64.")


def _unpack_bytes(part: memoryview) -> list[str]:
    """Each element is its length as a little-endian uint32, then its bytes."""
    texts, offset = [], 0
    while offset < len(part):
        if offset + 4 > len(part):
            raise MalformedBody("A BYTES tensor ends in the middle of a length.")
        (length,) = struct.unpack_from("<I", part, offset)
        offset += 4
        if offset + length > len(part):
            raise MalformedBody("A BYTES tensor ends in the middle of an element.")
        try:
            texts.append(bytes(part[offset : offset + length]).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidText(
                f"Element {len(texts)} of the BYTES tensor is not UTF-8 (byte {error.start}).",
                pointer="/inputs",
            ) from None
        offset += length
    return texts


def _texts(tensor: InputTensor, values: list[Any]) -> list[str]:
    if tensor.datatype != "BYTES" or not all(isinstance(value, str) for value in values):
        raise MalformedBody("The input 'text' must be BYTES: strings in JSON.", pointer="/inputs")
    return values


def _pairs(tensor: InputTensor, texts: list[str]) -> list[tuple[str, str]]:
    if len(tensor.shape) != 2 or tensor.shape[1] != 2:
        raise MalformedBody(
            f"The input 'text' has shape {tensor.shape}; this model reads pairs, [rows, 2].", pointer="/inputs"
        )
    return list(zip(texts[::2], texts[1::2], strict=True))


def _token_rows(inputs: Mapping[str, InputTensor], values: Mapping[str, list[Any]], name: str) -> list[list[int]]:
    """Return the rows of ``input_ids`` or of ``token_type_ids``, padding dropped by the mask when there is one."""
    tensor = inputs[name]
    if len(tensor.shape) != 2 or not all(type(value) is int for value in values[name]):
        raise MalformedBody(f"{name} must be INT64 of shape [rows, tokens].", pointer="/inputs")
    if tensor.shape != inputs["input_ids"].shape:
        raise MalformedBody(f"{name} must have the shape of input_ids.", pointer="/inputs")
    if not values[name]:
        return []
    ids = np.array(values[name]).reshape(tensor.shape)
    if "attention_mask" not in inputs:
        return [row.tolist() for row in ids]
    if inputs["attention_mask"].shape != tensor.shape:
        raise MalformedBody("attention_mask must have the shape of input_ids.", pointer="/inputs")
    if not all(type(value) in (int, bool) for value in values["attention_mask"]):
        raise MalformedBody("attention_mask must hold 1 for a token and 0 for padding.", pointer="/inputs")
    mask = np.array(values["attention_mask"]).reshape(tensor.shape).astype(bool)
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


def _wanted(body: InferRequest, inferencer: Inferencer) -> list[tuple[str, bool]]:
    """Return the outputs to answer and whether each is binary."""
    offered = OUTPUTS[inferencer.manifest.interface.task]
    by_default = bool(body.parameters.get("binary_data_output", False))
    if not body.outputs:
        return [(name, by_default) for name in offered]
    wanted = []
    for output in body.outputs:
        if output.name not in offered:
            raise UnknownName(
                f"There is no output {output.name[:80]!r}; this model has: {', '.join(offered)}.",
                pointer="/outputs",
            )
        wanted.append((output.name, bool(output.parameters.get("binary_data", by_default))))
    return wanted


def _output(name: str, is_binary: bool, inferencer: Inferencer, inference: Any) -> _Output:
    if name == "label":
        labels = inferencer.manifest.interface.labels
        names = [labels[int(row.argmax())] for row in inference.output("probabilities")]
        return _Output(name, "BYTES", [len(names)], names, is_binary)
    array = inference.stacked(name)
    return _Output(name, "FP32", list(array.shape), array, is_binary)


def _reply(body: InferRequest, inferencer: Inferencer, outputs: list[_Output], timings: Timings) -> Reply:
    tensors: list[dict[str, object]] = []
    parts: list[bytes] = []
    for output in outputs:
        tensor: dict[str, object] = {
            "name": output.name, "datatype": output.datatype, "shape": output.shape,
        }  # fmt: skip
        if output.is_binary:
            part = _pack(output)
            parts.append(part)
            tensor["parameters"] = {"binary_data_size": len(part)}
        else:
            tensor["data"] = output.values if isinstance(output.values, list) else output.values.ravel()
        tensors.append(tensor)
    reply: dict[str, object] = {
        "model_name": inferencer.manifest.model,
        "model_version": inferencer.manifest.version,
        "outputs": tensors,
    }
    if body.id is not None:
        reply["id"] = body.id
    headers = [(b"server-timing", server_timing(timings))]
    head = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return Reply(head, headers)
    headers.append((HEADER_LENGTH, b"%d" % len(head)))
    return Reply(b"".join([head, *parts]), headers, b"application/octet-stream")


def _pack(output: _Output) -> bytes:
    if isinstance(output.values, list):
        encoded = [value.encode() for value in output.values]
        return b"".join(struct.pack("<I", len(part)) + part for part in encoded)
    return output.values.astype("<f4").tobytes()
