"""The gRPC side without a process of its own: the schema, the table of codes, tensors, unexpected errors."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import TinyServer
from tremplin.errors import MissingExtra, Overloaded, StartFailed, TremplinError
from tremplin.gateway.edge import Edge, HotAnswer
from tremplin.gateway.problems import KINDS, Dialect, problem_response
from tremplin.gateway.tensors import Input, Output

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
from grpc import StatusCode as Code  # noqa: E402 (after what may be missing)

from tremplin.gateway.grpc import messages, port, status  # noqa: E402
from tremplin.gateway.grpc.calls import Calls  # noqa: E402
from tremplin.gateway.grpc.service import Rpc, RpcAnswer, rpcs  # noqa: E402
from tremplin.gateway.grpc.tensors import inputs_of, outputs_in  # noqa: E402

METHODS = messages.load_methods()
Request = METHODS["ModelInfer"].request
Answer = METHODS["ModelInfer"].answer

# -- the schema ---------------------------------------------------------------------------------------


def form(message: Any) -> dict[str, object]:
    """Return what decides how a message looks on the wire: numbers, types and names."""
    fields = {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.containing_oneof.name if field.containing_oneof else None,
            field.message_type.full_name if field.message_type else None,
        )
        for field in message.fields
    }
    return {"fields": fields, "inner": {inner.name: form(inner) for inner in message.nested_types}}


def test_messages_are_those_of_the_peer() -> None:
    peer = pytest.importorskip("tritonclient.grpc").service_pb2.DESCRIPTOR
    ours = METHODS["ModelInfer"].request.DESCRIPTOR.file
    assert ours.package == peer.package
    for name, message in ours.message_types_by_name.items():
        assert form(message) == form(peer.message_types_by_name[name]), name
    service = messages.SERVICE.rpartition(".")[2]
    for method in ours.services_by_name[service].methods:
        theirs = peer.services_by_name[service].methods_by_name[method.name]
        assert method.input_type.full_name == theirs.input_type.full_name
        assert method.output_type.full_name == theirs.output_type.full_name
        assert method.client_streaming == method.server_streaming == theirs.client_streaming


def test_each_method_has_an_answer_and_a_rule(tiny_server: TinyServer) -> None:
    server = tiny_server()
    answers = rpcs(server.services, server.metrics, server.state, server.deployment, None)  # type: ignore[arg-type]
    assert set(answers) == set(METHODS)
    public = {name for name, rpc in answers.items() if rpc.rules_of is None}
    assert public == {"ServerLive", "ServerReady"}
    paths = {route.path for route in server.app._app.router.routes}  # type: ignore[attr-defined]
    assert {rpc.rules_of for rpc in answers.values()} - {None} <= paths


# -- errors -------------------------------------------------------------------------------------------


def tree(root: type[TremplinError] = TremplinError) -> list[type[TremplinError]]:
    return [root, *(kind for branch in root.__subclasses__() for kind in tree(branch))]


def refused(error: TremplinError) -> HotAnswer:
    response = problem_response(error, dialect=Dialect.V2, request_id="r-1")
    headers = [*response.raw_headers, (b"x-request-id", b"r-1")]
    return HotAnswer(response.status_code, headers, bytes(response.body))


@pytest.mark.parametrize("kind", tree())
def test_each_error_has_a_code(kind: type[TremplinError]) -> None:
    error = kind("Wrong, à peu près.", retry_after_s=1.5) if kind is Overloaded else kind("Wrong, à peu près.")
    found = status.status_of(refused(error))
    assert found.code is status.CODES[KINDS[kind].status]
    assert found.message == "Wrong, à peu près."
    assert dict(found.trailing)["x-request-id"] == "r-1"


def test_the_table_holds_nothing_that_is_not_answered() -> None:
    assert set(status.CODES) == {kind.status for kind in KINDS.values()}


@pytest.mark.parametrize(
    ("name", "code", "pushback"),
    [
        ("Overloaded", Code.RESOURCE_EXHAUSTED, "1500"),
        ("DeadlinePassed", Code.DEADLINE_EXCEEDED, "-1"),
        ("NotReady", Code.UNAVAILABLE, None),
        ("MissingKey", Code.UNAUTHENTICATED, None),
        ("NotPermitted", Code.PERMISSION_DENIED, None),
        ("UnknownModel", Code.NOT_FOUND, None),
        ("MalformedBody", Code.INVALID_ARGUMENT, None),
        ("EngineCrashed", Code.INTERNAL, "-1"),
    ],
)
def test_codes_and_when_to_come_back(name: str, code: Any, pushback: str | None) -> None:
    kind = next(kind for kind in tree() if kind.__name__ == name)
    error = kind("Wrong.", retry_after_s=1.5) if kind is Overloaded else kind("Wrong.")
    found = status.status_of(refused(error))
    assert found.code is code
    assert dict(found.trailing).get("grpc-retry-pushback-ms") == pushback


class Context:
    """Stands for gRPC's side of a call."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.ended: tuple[Any, ...] = ()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "r-2"),)

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        return self.payload

    async def abort(self, *ended: Any) -> None:
        self.ended = ended
        raise grpc.aio.AbortError


async def test_an_unexpected_error_says_nothing_of_itself(tiny_server: TinyServer) -> None:
    async def fail(request: Any, call: Any) -> RpcAnswer:
        raise ZeroDivisionError("a user's text")

    edge = tiny_server().app
    assert isinstance(edge, Edge)
    method = METHODS["ServerLive"]
    calls = Calls(edge, {"ServerLive": method}, {"ServerLive": Rpc(fail, None)})
    context = Context(b"")
    with pytest.raises(grpc.aio.AbortError):
        await calls.handlers()["ServerLive"].stream_unary(None, context)
    code, message, trailing = context.ended
    assert code is Code.INTERNAL
    assert message == "An unexpected error was logged under this request id."
    assert "user's text" not in repr(trailing)
    assert dict(trailing)["x-request-id"] == "r-2"


# -- tensors ------------------------------------------------------------------------------------------

TEXTS = st.lists(st.text(), max_size=5)


@given(TEXTS)
def test_texts_are_the_same_raw_and_typed(texts: list[str]) -> None:
    encoded = [text.encode() for text in texts]
    inputs = [{"name": "text", "datatype": "BYTES", "shape": [len(texts)]}]
    raw = b"".join(len(part).to_bytes(4, "little") + part for part in encoded)
    typed = [inputs[0] | {"contents": {"bytes_contents": encoded}}]
    expected = {"text": Input("text", "BYTES", [len(texts)], texts)}
    assert inputs_of(Request(inputs=inputs, raw_input_contents=[raw])) == expected
    assert inputs_of(Request(inputs=typed)) == expected


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), max_size=4))
def test_token_ids_are_the_same_raw_and_typed(rows: list[list[int]]) -> None:
    flat = [number for row in rows for number in row]
    inputs = [{"name": "input_ids", "datatype": "INT64", "shape": [len(rows), 3]}]
    typed = [inputs[0] | {"contents": {"int64_contents": flat}}]
    expected = {"input_ids": Input("input_ids", "INT64", [len(rows), 3], flat)}
    assert inputs_of(Request(inputs=inputs, raw_input_contents=[np.array(flat, "<i8").tobytes()])) == expected
    assert inputs_of(Request(inputs=typed)) == expected


@given(TEXTS)
def test_outputs_are_read_back_by_the_peer(labels: list[str]) -> None:
    client = pytest.importorskip("tritonclient.grpc")
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    outputs = [Output("label", "BYTES", [len(labels)], labels), Output("scores", "FP32", [2, 3], numbers)]
    raw = client.service_pb2.ModelInferResponse.FromString(
        Answer(**outputs_in(outputs, is_raw=True)).SerializeToString()
    )
    result = client.InferResult(raw)
    assert [label.decode() for label in result.as_numpy("label")] == labels
    np.testing.assert_array_equal(result.as_numpy("scores"), numbers)
    typed = Answer(**outputs_in(outputs, is_raw=False))
    assert [label.decode() for label in typed.outputs[0].contents.bytes_contents] == labels
    np.testing.assert_array_equal(np.array(typed.outputs[1].contents.fp32_contents, np.float32), numbers.ravel())


# -- the port and the extra ---------------------------------------------------------------------------


def test_a_reserved_port_is_nobody_elses_but_can_be_listened_on() -> None:

    with port.reserve_port("127.0.0.1", 0) as reservation:
        number = reservation.getsockname()[1]
        with pytest.raises(StartFailed, match=f"Port {number} on 127.0.0.1 is in use"):
            port.reserve_port("127.0.0.1", number)
        listeners = []
        for _ in range(2):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", number))
            listener.listen()
            listeners.append(listener)
        with pytest.raises(StartFailed, match="in use"):
            port.reserve_port("127.0.0.1", number)
        # The reservation itself gets no connection: each of these is accepted by a listener.
        for listener in listeners:
            listener.setblocking(False)
        clients = [socket.create_connection(("127.0.0.1", number)) for _ in range(20)]
        accepted = [connection for listener in listeners for connection in accept_all(listener)]
        assert len(accepted) == len(clients)
        for opened in (*clients, *accepted, *listeners):
            opened.close()
    # Ended connections linger for a minute and must not keep a new start off the port.
    port.reserve_port("127.0.0.1", number).close()


def accept_all(listener: Any) -> list[Any]:
    accepted = []
    while True:
        try:
            accepted.append(listener.accept()[0])
        except BlockingIOError:
            return accepted


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(StartFailed, match="Check --host and --grpc-port"):
        port.reserve_port("192.0.2.1", 0)


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc_tools", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tremplin\[grpc\]'"):
        port.reserve_port("127.0.0.1", 0)


def test_grpc_is_not_imported_unless_it_is_asked_for() -> None:
    code = (
        "import sys, tremplin.cli.running, tremplin.workers, tremplin.wiring\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('grpc', 'grpc_tools')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
