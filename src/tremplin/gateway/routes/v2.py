"""The Open Inference Protocol, version 2, over REST, with its binary tensor extension.

What requests mean is told in ``open_inference.py``; here is how they are written.
Source: kserve/open-inference-protocol `inference_rest.md` and Triton's binary data extension; checked with
tritonclient's HTTP client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tremplin import __version__
from tremplin.errors import MalformedBody
from tremplin.gateway.bodies import Reply, parse, respond, server_timing
from tremplin.gateway.endpoint import Endpoint, HotRequest
from tremplin.gateway.open_inference import (
    REPOSITORY_EXTENSION,
    SERVER,
    check_outputs,
    find,
    index_versions,
    infer_inputs,
    model_metadata,
    output_of,
)
from tremplin.gateway.problems import Dialect
from tremplin.gateway.state import ServerState
from tremplin.gateway.tensors import Input, Output, input_of, pack, unpack
from tremplin.monitor.metrics import Metrics
from tremplin.registry.store import Registry
from tremplin.serve.deploy import Deployment
from tremplin.serve.infer import Inferencer
from tremplin.serve.services import Services
from tremplin.serve.timing import Timings

HEADER_LENGTH = b"inference-header-content-length"
BINARY_EXTENSION = "binary_tensor_data"


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


def endpoints(
    services: Services, metrics: Metrics, state: ServerState, deployment: Deployment, registry: Registry
) -> tuple[Endpoint, ...]:
    """Return the protocol's routes."""

    async def server_metadata(request: Request) -> Response:
        extensions = [BINARY_EXTENSION, REPOSITORY_EXTENSION]
        return respond({"name": SERVER, "version": __version__, "extensions": extensions})

    async def live(request: Request) -> Response:
        return respond({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = state.name == "ready"
        return respond({"ready": is_ready}, 200 if is_ready else 503)

    async def metadata(request: Request) -> Response:
        return respond(model_metadata(_find(services, request.path_params)))

    async def model_ready(request: Request) -> Response:
        inferencer = _find(services, request.path_params)
        is_ready = state.name == "ready" and inferencer.engine.health()
        return respond({"name": inferencer.manifest.model, "ready": is_ready}, 200 if is_ready else 503)

    async def index(request: Request) -> Response:
        body = parse(await request.body() or b"{}", IndexRequest)
        return respond(await asyncio.to_thread(index_versions, registry, services, is_ready_only=body.ready))

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
        wanted = check_outputs([output.name for output in body.outputs], inferencer)
        inference = await infer_inputs(inferencer, _inputs(body.inputs, binary), request.call)
        metrics.phases(inference.timings)
        outputs = [output_of(name, inferencer, inference) for name in wanted]
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
        *both("GET", "", "Describe a model", handler=metadata),
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


def _find(services: Services, parameters: Mapping[str, str]) -> Inferencer:
    return find(services, parameters["model"], parameters.get("version"))


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


def _inputs(tensors: list[InputTensor], binary: memoryview) -> dict[str, Input]:
    """Return the inputs by name, their elements from JSON or from their slices of the binary part, in order."""
    inputs: dict[str, Input] = {}
    offset = 0
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            values = _flat(tensor.data or [])
        else:
            if not isinstance(size, int) or size < 0 or offset + size > len(binary):
                raise MalformedBody(f"Input {tensor.name[:80]!r} announces more binary data than was sent.")
            values = unpack(tensor.name, tensor.datatype, binary[offset : offset + size])
            offset += size
        inputs[tensor.name] = input_of(tensor.name, tensor.datatype, tensor.shape, values)
    return inputs


def _flat(data: list[Any]) -> list[Any]:
    return [element for part in data for element in (_flat(part) if isinstance(part, list) else [part])]


def _reply(body: InferRequest, inferencer: Inferencer, outputs: list[Output], timings: Timings) -> Reply:
    by_default = body.parameters.get("binary_data_output", False)
    asked = [output.parameters.get("binary_data", by_default) for output in body.outputs]
    tensors: list[dict[str, object]] = []
    parts: list[bytes] = []
    for output, is_binary in zip(outputs, asked or [by_default] * len(outputs), strict=True):
        tensor: dict[str, object] = {
            "name": output.name, "datatype": output.datatype, "shape": output.shape,
        }  # fmt: skip
        if is_binary:
            part = pack(output)
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
