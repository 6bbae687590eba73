"""What each method answers, and to whom: the gRPC side of ``gateway/routes/v2.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field

from tremplin import __version__
from tremplin.errors import UnknownModel
from tremplin.gateway.grpc.messages import Message
from tremplin.gateway.grpc.tensors import Fields, inputs_of, outputs_in
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
from tremplin.gateway.state import ServerState
from tremplin.monitor.metrics import Metrics
from tremplin.registry.store import Registry
from tremplin.serve.call import Call
from tremplin.serve.deploy import Deployment
from tremplin.serve.services import Services
from tremplin.serve.timing import Timings

INFER = "ModelInfer"
STREAM = "ModelStreamInfer"

# Asked for by callers of Triton's streams, who cannot tell how many answers a request has; here it is always one.
ASKS_FOR_FINAL = "triton_enable_empty_final_response"
IS_FINAL = "triton_final_response"


@dataclass(frozen=True, slots=True)
class RpcAnswer:
    """The fields of the message to answer with."""

    fields: Fields = field(default_factory=dict)
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method."""

    answer: Callable[[Message, Call], Awaitable[RpcAnswer]]
    rules_of: str | None
    """The REST route that does the same: who may call that may call this. None: anybody, without a key."""


def rpcs(
    services: Services, metrics: Metrics, state: ServerState, deployment: Deployment, registry: Registry
) -> Mapping[str, Rpc]:
    """Return the methods by name."""

    async def server_live(request: Message, call: Call) -> RpcAnswer:
        return RpcAnswer({"live": True})

    async def server_ready(request: Message, call: Call) -> RpcAnswer:
        return RpcAnswer({"ready": state.name == "ready"})

    async def model_ready(request: Message, call: Call) -> RpcAnswer:
        try:
            inferencer = find(services, request.name, request.version or None)
        except UnknownModel:  # no error: clients ask in a loop until a model is loaded
            return RpcAnswer({"ready": False})
        return RpcAnswer({"ready": state.name == "ready" and inferencer.engine.health()})

    async def server_metadata(request: Message, call: Call) -> RpcAnswer:
        return RpcAnswer({"name": SERVER, "version": __version__, "extensions": [REPOSITORY_EXTENSION]})

    async def describe_model(request: Message, call: Call) -> RpcAnswer:
        fields = asdict(model_metadata(find(services, request.name, request.version or None)))
        del fields["parameters"]
        return RpcAnswer(fields)

    async def infer(request: Message, call: Call) -> RpcAnswer:
        inferencer = find(services, request.model_name, request.model_version or None)
        wanted = check_outputs([output.name for output in request.outputs], inferencer)
        inference = await infer_inputs(inferencer, inputs_of(request), call)
        metrics.phases(inference.timings)
        outputs = [output_of(name, inferencer, inference) for name in wanted]
        fields = {
            "model_name": inferencer.manifest.model,
            "model_version": inferencer.manifest.version,
            "id": request.id,
            **outputs_in(outputs, is_raw=bool(request.raw_input_contents)),
        }
        return RpcAnswer(fields, inference.timings)

    async def infer_in_stream(request: Message, call: Call) -> RpcAnswer:
        answered = await infer(request, call)
        if ASKS_FOR_FINAL in request.parameters:
            answered.fields["parameters"] = {IS_FINAL: {"bool_param": True}}
        return RpcAnswer({"infer_response": answered.fields}, answered.timings)

    async def index(request: Message, call: Call) -> RpcAnswer:
        rows = await asyncio.to_thread(index_versions, registry, services, is_ready_only=request.ready)
        return RpcAnswer({"models": [asdict(row) for row in rows]})

    async def load(request: Message, call: Call) -> RpcAnswer:
        version = request.parameters["version"].string_param if "version" in request.parameters else ""
        await deployment.load(request.model_name, version or None)
        return RpcAnswer()

    async def unload(request: Message, call: Call) -> RpcAnswer:
        await deployment.unload(request.model_name)
        return RpcAnswer()

    infer_route = "/v2/models/{model}/infer"
    return {
        "ServerLive": Rpc(server_live, None),
        "ServerReady": Rpc(server_ready, None),
        "ModelReady": Rpc(model_ready, "/v2/models/{model}/ready"),
        "ServerMetadata": Rpc(server_metadata, "/v2"),
        "ModelMetadata": Rpc(describe_model, "/v2/models/{model}"),
        INFER: Rpc(infer, infer_route),
        STREAM: Rpc(infer_in_stream, infer_route),
        "RepositoryIndex": Rpc(index, "/v2/repository/index"),
        "RepositoryModelLoad": Rpc(load, "/v2/repository/models/{model}/load"),
        "RepositoryModelUnload": Rpc(unload, "/v2/repository/models/{model}/unload"),
    }
