"""What a caller of our gRPC server can do wrong, and what he is told; with a bare client, not Triton's."""

from __future__ import annotations

import json
import queue
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
pytest.importorskip("tritonclient.grpc", reason="the peer's own schema is not installed")
from tritonclient.grpc import service_pb2 as peer  # noqa: E402 (after what may be missing)

from tests.live_grpc import SERVICE, Caller, address_of, caller_of, outcome_of, tensor, texts_request  # noqa: E402
from tests.live_server import PATIENCE_S, LiveServer, run_command  # noqa: E402

Code = grpc.StatusCode
ServerOn = Callable[..., LiveServer]
OPTIONS = ("--grpc-port", "0", "--engine", "onnxruntime")

LONG = "a long text about an order that never came " * 40


@pytest.fixture
def caller(grpc_server: LiveServer) -> Iterator[Caller]:
    with caller_of(grpc_server) as caller:
        yield caller


def logged(server: LiveServer, request_id: str) -> dict[str, Any]:
    """Return the line of a request in the log."""
    lines = server.wait_for_log(f'"request_id":"{request_id}"').splitlines()
    return next(line for line in map(json.loads, lines) if line.get("request_id") == request_id)


# -- forms ------------------------------------------------------------------------------------------


def test_typed_contents_are_answered_by_type_and_raw_ones_raw(caller: Caller) -> None:
    typed = caller.infer(texts_request("Où est mon colis ?", id="7")).answer
    element = "Où est mon colis ?".encode()
    raw_request = peer.ModelInferRequest(
        model_name="minilm",
        inputs=[tensor("text", "BYTES", [1])],
        raw_input_contents=[struct.pack("<I", len(element)) + element],
    )
    raw = caller.infer(raw_request).answer
    assert (typed.id, raw.id) == ("7", "")
    assert not typed.raw_output_contents
    assert not raw.outputs[0].HasField("contents")
    assert list(typed.outputs[0].shape) == list(raw.outputs[0].shape) == [1, 384]
    numbers = np.frombuffer(raw.raw_output_contents[0], "<f4")
    np.testing.assert_array_equal(np.array(typed.outputs[0].contents.fp32_contents, np.float32), numbers)


@pytest.mark.parametrize("datatype", ["INT64", "INT32"])
def test_token_ids_are_the_text(caller: Caller, grpc_server: LiveServer, datatype: str) -> None:
    with grpc_server.client() as http:
        row = [token["id"] for token in http.post("/tokenize", json={"inputs": "a dog"}).json()[0]]
    shape, member = [1, len(row) + 2], {"INT64": "int64_contents", "INT32": "int_contents"}[datatype]
    inputs = [
        tensor("input_ids", datatype, shape, **{member: [*row, 0, 0]}),
        tensor("attention_mask", "BOOL", shape, bool_contents=[True] * len(row) + [False] * 2),
    ]
    ids = caller.infer(peer.ModelInferRequest(model_name="minilm", inputs=inputs)).answer
    text = caller.infer(texts_request("a dog")).answer
    np.testing.assert_allclose(
        ids.outputs[0].contents.fp32_contents, text.outputs[0].contents.fp32_contents, atol=1e-6
    )


def test_labels_come_by_type(caller: Caller) -> None:
    wanted = [Requested(name="label")]
    answer = caller.infer(texts_request("I want my money back", model="support-desk", outputs=wanted)).answer
    assert [output.name for output in answer.outputs] == ["label"]
    assert list(answer.outputs[0].contents.bytes_contents) == [b"refund_request"]


def test_trailing_metadata_tell_the_request_and_where_its_time_went(
    caller: Caller, grpc_server: LiveServer
) -> None:
    outcome = caller.infer(texts_request("a dog"), x_request_id="grpc-mine-1")
    assert outcome.trailing["x-request-id"] == "grpc-mine-1"
    assert str(outcome.trailing["server-timing"]).startswith("tokenize;dur=")
    line = logged(grpc_server, "grpc-mine-1")
    assert (line["route"], line["status"]) == ("grpc/ModelInfer", 200)
    assert caller.call("ServerLive", b"").trailing["x-request-id"]


# -- what cannot be read ------------------------------------------------------------------------------

EIGHT = struct.pack("<I", 4) + b"abcd"
Requested = peer.ModelInferRequest.InferRequestedOutputTensor


def of_inputs(*inputs: Any, **fields: Any) -> Any:
    return peer.ModelInferRequest(model_name="minilm", inputs=inputs, **fields)


UNREADABLE = [
    (b"\xff\xff\xff", "not a inference.ModelInferRequest"),
    (b"\x0a\x02\xff\xfe", "valid UTF-8"),
    (of_inputs(), "no input"),
    (of_inputs(tensor("words", "BYTES", [1], bytes_contents=[b"a"])), "'text'"),
    (of_inputs(tensor("text", "BYTES", [2], bytes_contents=[b"a"])), "holds 2"),
    (of_inputs(tensor("text", "BYTES", [1])), "0 elements"),
    (of_inputs(tensor("text", "BYTES", [-1], bytes_contents=[b"a"])), "dimensions"),
    (of_inputs(tensor("text", "BYTES", [1] * 9, bytes_contents=[b"a"])), "dimensions"),
    (of_inputs(tensor("text", "BYTES", [1 << 31] * 2)), "dimensions"),
    (of_inputs(tensor("text", "BYTES", [1], bytes_contents=[b"a\xff"])), "byte 1"),
    (of_inputs(tensor("text", "BYTES", [1], bytes_contents=[b"a\0"])), "NUL"),
    (of_inputs(tensor("text", "BYTES", [1], bytes_contents=[b" "])), "empty"),
    (of_inputs(tensor("text", "UINT8", [1], uint_contents=[1])), "'UINT8'"),
    (of_inputs(tensor("text", "INT64", [1], int64_contents=[1])), "must be BYTES"),
    (of_inputs(tensor("input_ids", "INT64", [2], int64_contents=[1, 2])), "rows"),
    (of_inputs(tensor("input_ids", "INT64", [1, 1], int64_contents=[-5])), "token id"),
    (of_inputs(tensor("input_ids", "INT64", [1, 1], int_contents=[7])), "0 elements"),
    (of_inputs(tensor("text", "BYTES", [1]), raw_input_contents=[b"abc"]), "length"),
    (of_inputs(tensor("text", "BYTES", [1]), raw_input_contents=[b"\x09\0\0\0"]), "element"),
    (of_inputs(tensor("text", "BYTES", [1]), raw_input_contents=[EIGHT] * 2), "one for each"),
    (of_inputs(tensor("input_ids", "INT64", [1, 1]), raw_input_contents=[b"1234"]), "whole"),
    (of_inputs(tensor("text", "FP32", [1]), raw_input_contents=[b"1234"]), "'FP32'"),
    (of_inputs(tensor("text", "BYTES", [1], bytes_contents=[b"a"]), raw_input_contents=[EIGHT]), "one of the two"),
]
UNKNOWN = [
    (texts_request("a", model="nope"), "no model 'nope'"),
    (texts_request("a", model=""), "no model"),
    (texts_request("a", model_version="9"), "not '9'"),
    (texts_request("a", outputs=[Requested(name="é" * 300)]), "no output 'éé"),
]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        *((request, Code.INVALID_ARGUMENT, message) for request, message in UNREADABLE),
        *((request, Code.NOT_FOUND, message) for request, message in UNKNOWN),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_told(caller: Caller, request_: Any, code: Any, message: str) -> None:
    outcome = caller.infer(request_)
    assert outcome.code is code
    assert message in outcome.message
    problem = json.loads(outcome.trailing["problem-bin"])
    assert problem["detail"] == outcome.message
    assert problem["request_id"] == outcome.trailing["x-request-id"]
    assert "Traceback" not in str(problem)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused_by_its_size_unpacked(
    caller: Caller, grpc_server: LiveServer, compression: Any
) -> None:
    send = caller.channel.unary_unary(SERVICE + "ModelInfer")
    request_id = f"large-{compression.name}"
    metadata = (*caller.headers.items(), ("x-request-id", request_id))
    future = send.future(bytes(9 << 20), metadata=metadata, compression=compression, timeout=PATIENCE_S)
    outcome = outcome_of(future)
    assert outcome.code is Code.RESOURCE_EXHAUSTED
    assert "larger than max" in outcome.message
    assert logged(grpc_server, request_id)["status"] == 413


def test_no_message_at_all_is_told(caller: Caller) -> None:
    call = caller.channel.stream_unary(SERVICE + "ModelInfer")
    with pytest.raises(grpc.RpcError) as raised:
        call(iter([]), metadata=tuple(caller.headers.items()))
    assert raised.value.code() is Code.INVALID_ARGUMENT
    assert "No message came" in raised.value.details()


def test_unknown_methods_and_services_are_told(caller: Caller) -> None:
    for path in (SERVICE + "Explode", "/other.Service/ModelInfer"):
        with pytest.raises(grpc.RpcError) as raised:
            caller.channel.unary_unary(path)(b"", metadata=tuple(caller.headers.items()))
        assert raised.value.code() is Code.UNIMPLEMENTED


def test_what_is_not_http2_hurts_nobody(caller: Caller, grpc_server: LiveServer) -> None:
    host, port = address_of(grpc_server).rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" + bytes(4096))
        while connection.recv(4096):
            pass
    assert caller.infer(texts_request("a dog")).code is Code.OK


# -- keys -----------------------------------------------------------------------------------------------


def test_a_key_is_needed_but_for_health(grpc_server: LiveServer) -> None:
    with caller_of(grpc_server, is_keyless=True) as caller:
        assert caller.call("ServerLive", b"").answer.live
        assert caller.call("ServerReady", b"").answer.ready
        for method in ("ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "RepositoryIndex"):
            assert caller.call(method, b"").code is Code.UNAUTHENTICATED
            assert caller.call(method, b"", x_api_key="tk_wrong").code is Code.UNAUTHENTICATED
        for name, value in (("authorization", "bearer {}"), ("x_api_key", "{}")):
            given = {name: value.format(grpc_server.api_key)}
            assert caller.infer(texts_request("a dog"), **given).code is Code.OK


def test_operating_needs_the_right_to(grpc_server: LiveServer) -> None:
    made = run_command("keys", "create", "clerk", "--data", str(grpc_server.data)).stdout.strip()
    time.sleep(0.3)  # a key made elsewhere counts a moment later
    with caller_of(grpc_server, is_keyless=True) as caller:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            request = getattr(peer, f"{method}Request")(model_name="minilm")
            outcome = caller.call(method, request, x_api_key=made)
            assert outcome.code is Code.PERMISSION_DENIED
            assert "--operator" in outcome.message
        assert caller.call("RepositoryIndex", b"", x_api_key=made).code is Code.OK


def test_a_key_is_checked_before_the_message_is_read(grpc_server: LiveServer) -> None:
    with caller_of(grpc_server, is_keyless=True) as caller:
        outcome = caller.call("ModelInfer", bytes(64 << 20))
    assert outcome.code is Code.UNAUTHENTICATED


# -- deadlines, priorities, callers that leave ---------------------------------------------------------


def test_grpcs_deadline_is_the_callers(caller: Caller, grpc_server: LiveServer) -> None:
    texts = [f"{number} {LONG}" for number in range(200)]
    outcome = caller.infer(texts_request(*texts), timeout=0.05, x_request_id="late-1")
    assert outcome.code is Code.DEADLINE_EXCEEDED
    assert logged(grpc_server, "late-1")["status"] == 504


def test_our_own_deadline_counts_too_and_says_not_to_ask_again(caller: Caller) -> None:
    texts = [f"{number} {LONG}" for number in range(64)]
    outcome = caller.infer(texts_request(*texts), x_tremplin_deadline_ms="5")
    assert outcome.code is Code.DEADLINE_EXCEEDED
    assert outcome.trailing["grpc-retry-pushback-ms"] == "-1"
    assert json.loads(outcome.trailing["problem-bin"])["status"] == 504


def test_a_priority_that_cannot_be_read_is_told(caller: Caller) -> None:
    outcome = caller.infer(texts_request("a dog"), x_tremplin_priority="soon")
    assert outcome.code is Code.INVALID_ARGUMENT
    assert "interactive or bulk" in outcome.message
    assert caller.infer(texts_request("a dog"), x_tremplin_priority="bulk").code is Code.OK


def test_a_caller_that_leaves_abandons_his_work(caller: Caller, grpc_server: LiveServer) -> None:
    texts = [f"{number} {LONG}" for number in range(250)]
    waiting = caller.start("ModelInfer", texts_request(*texts).SerializeToString(), x_request_id="gone-1")
    with grpc_server.client() as http:
        until(lambda: queued_tokens(http) > 0)
        waiting.cancel()
        assert logged(grpc_server, "gone-1")["status"] == 499
        # 250 long texts take seconds; what nobody waits for is not computed.
        until(lambda: queued_tokens(http) == 0)
    assert caller.infer(texts_request("a dog"), timeout=5).code is Code.OK


def test_a_stream_that_is_cut_abandons_its_work(caller: Caller, grpc_server: LiveServer) -> None:
    requests: queue.Queue[Any] = queue.Queue()
    for number in range(40):
        requests.put(texts_request(*[f"{number} {LONG} {row}" for row in range(4)]).SerializeToString())
    stream = caller.channel.stream_stream(SERVICE + "ModelStreamInfer")
    metadata = (*caller.headers.items(), ("x-request-id", "cut-1"))
    answers = stream(iter(requests.get, None), metadata=metadata)
    next(answers)
    answers.cancel()
    with grpc_server.client() as http:
        until(lambda: queued_tokens(http) == 0 and http.get("/readyz").json()["in_flight"] == 1)
    ends = {(line["route"], line["status"]) for line in of_request(grpc_server, "cut-1")}
    assert {("grpc/ModelStreamInfer", 499), ("grpc/ModelInfer", 499)} <= ends


def test_a_damaged_request_in_a_stream_ends_only_itself(caller: Caller) -> None:
    stream = caller.channel.stream_stream(SERVICE + "ModelStreamInfer")
    good = texts_request("a dog", id="g").SerializeToString()
    bad = texts_request("a dog", id="b", model="nope").SerializeToString()
    answers = stream(iter([good, b"\xff", bad, good]), metadata=tuple(caller.headers.items()))
    read = [peer.ModelStreamInferResponse.FromString(answer) for answer in answers]
    assert [bool(answer.error_message) for answer in read] == [False, True, True, False]
    assert [answer.infer_response.id for answer in read] == ["g", "", "b", "g"]
    assert answers.code() is Code.OK


def test_calls_are_counted_under_their_method(caller: Caller, grpc_server: LiveServer) -> None:
    with grpc_server.client() as http:
        before = http.get("/metrics").text
        caller.infer(texts_request("a dog"))
        caller.infer(texts_request("a dog", model="nope"))
        after = http.get("/metrics").text
    for code in (200, 404):
        name = f'tremplin_requests_total{{code="{code}",route="grpc/ModelInfer"}}'
        assert sample(after, name) == sample(before, name) + 1


# -- servers of their own ------------------------------------------------------------------------------


def test_a_full_server_says_so_at_once_and_when_to_come_back(server_on: ServerOn) -> None:
    server = server_on(*OPTIONS, "--threads", "1", TREMPLIN_MAX_QUEUE_TOKENS="600")
    with caller_of(server) as caller:
        futures = [
            caller.start("ModelInfer", texts_request(f"{number} {LONG}").SerializeToString())
            for number in range(40)
        ]
        outcomes = [outcome_of(future) for future in futures]
    assert {outcome.code for outcome in outcomes} == {Code.OK, Code.RESOURCE_EXHAUSTED}
    for outcome in outcomes:
        if outcome.code is Code.RESOURCE_EXHAUSTED:
            assert int(outcome.trailing["retry-after-ms"]) > 0
            assert outcome.trailing["grpc-retry-pushback-ms"] == outcome.trailing["retry-after-ms"]
            assert str(json.loads(outcome.trailing["problem-bin"])["type"]).endswith("#overloaded")


def test_a_stop_is_told_and_what_is_in_flight_is_answered(server_on: ServerOn) -> None:
    server = server_on(*OPTIONS, "--threads", "1", TREMPLIN_DRAIN_DELAY_S="1.5")
    texts = [f"{number} {LONG}" for number in range(60)]
    requests: queue.Queue[Any] = queue.Queue()
    with caller_of(server) as caller, server.client() as http:
        stream = caller.channel.stream_stream(SERVICE + "ModelStreamInfer")
        answers = stream(iter(requests.get, None), metadata=tuple(caller.headers.items()))
        requests.put(texts_request("a dog", id="before").SerializeToString())
        assert peer.ModelStreamInferResponse.FromString(next(answers)).infer_response.id == "before"
        in_flight = caller.start("ModelInfer", texts_request(*texts).SerializeToString())
        until(lambda: queued_tokens(http) > 0)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not caller.call("ServerReady", b"").answer.ready)
        assert caller.call("ServerLive", b"").answer.live
        assert caller.infer(texts_request("a dog"), timeout=PATIENCE_S).code is Code.OK
        requests.put(texts_request("a dog", id="meanwhile").SerializeToString())
        assert peer.ModelStreamInferResponse.FromString(next(answers)).infer_response.id == "meanwhile"
        outcome = outcome_of(in_flight)
        assert outcome.code is Code.OK
        assert list(outcome.answer.outputs[0].shape) == [60, 384]
        with pytest.raises(grpc.RpcError) as raised:
            next(answers)
        assert raised.value.code() is Code.UNAVAILABLE
        requests.put(None)
        assert server.process.wait(PATIENCE_S) == 0
    assert "unexpected error" not in server.logs()


def test_workers_share_the_port(server_on: ServerOn) -> None:
    server = server_on(*OPTIONS, "--workers", "2", TREMPLIN_DRAIN_DELAY_S="0.1")
    workers = set()
    for _ in range(24):  # the kernel deals connections out by chance: all to one of two is 1 in 8 million
        with caller_of(server) as caller:
            outcome = caller.infer(texts_request("a dog"))
            assert outcome.code is Code.OK
            workers.add(str(outcome.trailing["x-request-id"])[:8])  # the half that is the process's
    assert len(workers) == 2
    with server.client() as http:
        assert (
            sample(http.get("/metrics").text, 'tremplin_requests_total{code="200",route="grpc/ModelInfer"}') == 24
        )
    assert server.stop() == 0


def test_a_port_in_use_is_told_before_anything_is_done(grpc_server: LiveServer) -> None:
    port = address_of(grpc_server).rsplit(":", 1)[1]
    taken = run_command("serve", "minilm", "--data", str(grpc_server.data), "--port", "0", "--grpc-port", port)
    assert taken.returncode != 0
    assert f"Port {port} on 127.0.0.1 is in use" in taken.stderr
    assert "--grpc-port" in taken.stderr


# -- what several tests ask ------------------------------------------------------------------------------


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sample(exposition: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in exposition.splitlines() if line.startswith(name + " "))


def queued_tokens(http: Any) -> float:
    name = 'tremplin_queue_tokens{model="minilm",version="2-int8"}'
    return sample(http.get("/metrics").text, name)


def of_request(server: LiveServer, request_id: str) -> list[dict[str, Any]]:
    server.wait_for_log(f'"request_id":"{request_id}"')
    time.sleep(0.5)  # lines are written a few times a second
    lines = map(json.loads, server.logs().splitlines())
    return [line for line in lines if line.get("request_id") == request_id and line.get("event") == "request"]
