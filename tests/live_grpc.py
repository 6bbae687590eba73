"""Calling the real server over gRPC, with messages of the peer's own schema and nothing of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as peer

from tests.live_server import PATIENCE_S, LiveServer

SERVICE = "/inference.GRPCInferenceService/"


def address_of(server: LiveServer) -> str:
    """Return where the server says that it answers over gRPC."""
    found = re.search(r"^gRPC +(\S+)$", "".join(server.output), re.MULTILINE)
    assert found, server.output
    return found[1]


@dataclass
class Outcome:
    """How a call ended."""

    code: grpc.StatusCode
    message: str
    trailing: dict[str, str | bytes]
    answer: Any = None


class Caller:
    """Calls single methods, with any bytes."""

    def __init__(self, channel: grpc.Channel, headers: dict[str, str]) -> None:
        self.channel = channel
        self.headers = headers

    def start(self, method: str, payload: bytes, *, timeout: float = PATIENCE_S, **headers: str) -> grpc.Future:
        """Send a call and do not wait."""
        metadata = tuple(
            (self.headers | {name.replace("_", "-"): value for name, value in headers.items()}).items()
        )
        send = self.channel.unary_unary(SERVICE + method)
        return send.future(payload, timeout=timeout, metadata=metadata)

    def call(self, method: str, payload: Any, **options: Any) -> Outcome:
        """Send a call and wait for its end."""
        sent = payload if isinstance(payload, bytes) else payload.SerializeToString()
        return outcome_of(self.start(method, sent, **options), method)

    def infer(self, request: Any, **options: Any) -> Outcome:
        """Call ModelInfer."""
        return self.call("ModelInfer", request, **options)


def outcome_of(future: Any, method: str = "ModelInfer") -> Outcome:
    """Wait for a call's end."""
    code = future.code()
    trailing = {item.key: item.value for item in future.trailing_metadata() or ()}
    answer = None
    if code is grpc.StatusCode.OK:
        answer = getattr(peer, f"{method}Response").FromString(future.result())
    return Outcome(code, future.details(), trailing, answer)


@contextmanager
def caller_of(server: LiveServer, *, is_keyless: bool = False) -> Iterator[Caller]:
    """Lend a caller with a connection of its own."""
    # Channels of one process share connections unless told otherwise.
    with grpc.insecure_channel(address_of(server), (("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield Caller(channel, {} if is_keyless else server.headers)


def tensor(name: str, datatype: str, shape: list[int], **contents: list[Any]) -> Any:
    """Return an input; ``contents`` is one of InferTensorContents' members."""
    made = peer.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        made.contents.MergeFrom(peer.InferTensorContents(**contents))
    return made


def texts_request(*texts: str, model: str = "minilm", **fields: Any) -> Any:
    """Return a request with typed texts."""
    elements = [text.encode() for text in texts]
    inputs = [tensor("text", "BYTES", [len(texts)], bytes_contents=elements)]
    return peer.ModelInferRequest(model_name=model, inputs=inputs, **fields)
