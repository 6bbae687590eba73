"""What nobody should send: each gets a clear problem and nothing of what it sent, and the server lives on."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live_server import LiveServer

CANARY = "Zyzzyva-canary-7731"
TRACE = re.compile(r"Traceback|File \"|\.py\b|line \d+, in |site-packages|0x[0-9a-f]{8}")

INFER = "/v2/models/minilm/infer"

# A valid body for each path that takes one, and the members that hold text.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "a", "model": "minilm"},
    "/embed": {"inputs": "a"},
    "/": {"inputs": "a"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/predict": {"inputs": "a"},
    "/tokenize": {"inputs": "a"},
    "/v1/classify": {"inputs": "a"},
    "/v1/similarity": {"source": "a", "sentences": ["b"]},
    "/v1/search": {"query": "a"},
    "/v1/zero-shot": {"text": "a", "labels": [{"label": "b"}, {"label": "c"}]},
    "/v1/explain": {"text": "a"},
    INFER: {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
}
PATHS = list(BODIES)


@pytest.fixture(scope="module")
def client(live_server: LiveServer) -> Iterator[httpx.Client]:
    """A client with the key; when the module is done, the server must still answer."""
    with live_server.client() as client:
        yield client
        assert client.get("/readyz").json()["status"] == "ready"
        assert client.post("/embed", json={"inputs": "still here"}).status_code == 200
    assert live_server.process.poll() is None


def with_text(path: str, text: str) -> dict[str, Any]:
    """Return a path's body with every "a" replaced by ``text``."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replaced(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        return text if value == "a" else value

    return replaced(BODIES[path])


def assert_problem(
    response: httpx.Response, status: int | tuple[int, ...], slug: str | None = None
) -> dict[str, Any]:
    wanted = status if isinstance(status, tuple) else (status,)
    assert response.status_code in wanted, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"].strip().endswith((".", "E")), problem["detail"]
    assert len(response.content) < 3000
    assert CANARY not in response.text
    assert not TRACE.search(response.text), response.text
    if slug is not None:
        assert problem["type"].endswith(f"#{slug}")
    error = problem["error"]
    assert problem["detail"] == (error["message"] if isinstance(error, dict) else error)
    return problem


# -- texts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", ["", " ", " \n\t  "])
def test_a_text_of_nothing(client: httpx.Client, path: str, text: str) -> None:
    assert_problem(client.post(path, json=with_text(path, text)), 400, "empty-text")


@pytest.mark.parametrize("path", PATHS)
def test_a_nul(client: httpx.Client, path: str) -> None:
    problem = assert_problem(client.post(path, json=with_text(path, f"{CANARY}\0")), 422, "invalid-text")
    assert f"at character {len(CANARY)}" in problem["detail"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("half", [rb"\ud800", rb"\udc00", rb"\udbff\u0041"])
def test_half_of_a_surrogate_pair(client: httpx.Client, path: str, half: bytes) -> None:
    body = json.dumps(with_text(path, CANARY)).encode().replace(CANARY.encode(), CANARY.encode() + half)
    assert_problem(client.post(path, content=body), 422)


@pytest.mark.parametrize("path", PATHS)
def test_text_that_is_not_utf8(client: httpx.Client, path: str) -> None:
    body = json.dumps(with_text(path, CANARY)).encode().replace(CANARY.encode(), CANARY.encode() + b"\xff\xfe")
    assert_problem(client.post(path, content=body), 422, "malformed-body")


@pytest.mark.parametrize("path", PATHS)
def test_ten_megabytes_of_text(client: httpx.Client, path: str) -> None:
    body = with_text(path, CANARY * (10_000_000 // len(CANARY)))
    assert_problem(client.post(path, json=body), 413, "body-too-large")


def test_a_long_text_is_cut_and_said_to_be(client: httpx.Client) -> None:
    long = "word " * 200_000  # a megabyte
    answer = client.post("/v1/embeddings", json={"input": [long, "short"]})
    assert answer.status_code == 200
    assert answer.headers["x-tremplin-truncated"] == "1"
    assert_problem(client.post("/embed", json={"inputs": ["short", long]}), 422, "text-too-long")
    assert client.post("/embed", json={"inputs": long, "truncate": True}).status_code == 200


def test_a_chunked_body_over_the_limit(client: httpx.Client) -> None:
    for path in ("/v1/embeddings", INFER):
        chunks = (CANARY.encode() * 4000 for _ in range(150))  # 11 MB, never announced
        assert_problem(client.post(path, content=chunks), 413, "body-too-large")


# -- bodies --------------------------------------------------------------------------------------------

NOT_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"a"',
    b"12",
    b"{",
    b'{"a":}',
    b"\xff\xfe",
    b"\x1f\x8b\x08\x00",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"{}" * 3,
    b'{"input": NaN}',
]


@pytest.mark.parametrize("path", PATHS)
def test_bodies_that_are_not_requests(client: httpx.Client, path: str) -> None:
    for body in NOT_BODIES:
        assert_problem(client.post(path, content=body), 422, "malformed-body")
    assert_problem(client.post(path, json={}), 422, "malformed-body")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("wrong", [None, True, 12, 1.5, {"a": CANARY}, [CANARY, None], [[[CANARY]]]])
def test_members_of_the_wrong_type(client: httpx.Client, path: str, wrong: Any) -> None:
    for member in BODIES[path]:
        if member != "model" or wrong is not None:
            assert_problem(client.post(path, json=BODIES[path] | {member: wrong}), 422, "malformed-body")


def test_nesting_deeper_than_any_stack(client: httpx.Client) -> None:
    for depth in (150, 199, 201, 5000):
        nested = b"[" * depth + b"]" * depth
        assert_problem(client.post("/v1/embeddings", content=b'{"input":' + nested + b"}"), 422)
        tensor = b'{"inputs":[{"name":"text","shape":[0],"datatype":"BYTES","data":' + nested + b"}]}"
        assert_problem(client.post(INFER, content=tensor), (400, 422))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/embed",
        "/predict",
        "/tokenize",
        "/v1/classify",
        "/v1/similarity",
        "/v1/zero-shot",
        INFER,
    ],
)
def test_a_hundred_thousand_inputs(client: httpx.Client, path: str) -> None:
    many: Any = ["a"] * 100_000
    body = {
        "/v1/embeddings": {"input": many},
        "/v1/similarity": {"source": "a", "sentences": many},
        "/v1/zero-shot": {"text": "a", "labels": [{"label": "a"}] * 100_000},
        INFER: {"inputs": [{"name": "text", "shape": [100_000], "datatype": "BYTES", "data": many}]},
    }.get(path, {"inputs": many})
    assert_problem(client.post(path, json=body), 413, "too-many-inputs")


@pytest.mark.parametrize(
    ("path", "changes", "status"),
    [
        ("/v1/embeddings", {"model": "nope"}, 404),
        ("/v1/embeddings", {"model": "minilm@9-int8"}, 404),
        ("/v1/embeddings", {"model": "support-desk"}, 404),
        ("/v1/embeddings", {"model": "../../etc/passwd"}, 404),
        ("/v1/embeddings", {"encoding_format": "hex"}, 422),
        ("/v1/embeddings", {"dimensions": 0}, 422),
        ("/v1/embeddings", {"dimensions": -1}, 422),
        ("/v1/embeddings", {"dimensions": 385}, 422),
        ("/v1/embeddings", {"dimensions": 10**30}, 422),
        ("/v1/embeddings", {"dimensions": "64a"}, 422),
        ("/v1/embeddings", {"input": [[]]}, 400),
        ("/v1/embeddings", {"input": [[1, -1]]}, 422),
        ("/v1/embeddings", {"input": [30522]}, 422),
        ("/v1/embeddings", {"input": [10**30]}, 422),
        ("/v1/embeddings", {"input": [1] * 257}, 422),
        ("/v1/embeddings", {"input": [[1], ["a"]]}, 422),
        ("/embed", {"normalize": False}, 422),
        ("/embed", {"prompt_name": "query"}, 422),
        ("/predict", {"inputs": [["a", "b"]]}, 422),
        ("/predict", {"raw_scores": True}, 422),
        ("/predict", {"parameters": {"candidate_labels": ["a"]}}, 422),
        ("/v1/search", {"top_k": 0}, 422),
        ("/v1/search", {"top_k": 10**30}, 422),
        ("/v1/classify", {"surprise": 1}, 422),
        ("/v1/classify", {"model": "minilm"}, 404),
        ("/v1/zero-shot", {"labels": []}, 400),
        ("/v1/zero-shot", {"labels": [{"label": "one"}]}, 400),
        ("/v1/explain", {"label": "no-such-label"}, 404),
        ("/v1/similarity", {"sentences": []}, 400),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400),
    ],
)
def test_values_that_cannot_be_used(client: httpx.Client, path: str, changes: dict[str, Any], status: int) -> None:
    assert_problem(client.post(path, json=BODIES[path] | changes), status)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/embeddings", {"input": ["a", " ", "c"]}, "/input/1"),
        ("/embed", {"inputs": ["a", "b", "c\0"]}, "/inputs/2"),
        ("/v1/classify", {"inputs": ["", "b"]}, "/inputs/0"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "/dimensions"),
        ("/v1/zero-shot", {"text": "a", "labels": [{"label": ""}, {"label": "b"}]}, "/labels/0/label"),
    ],
)
def test_the_pointer_names_the_member_to_blame(
    client: httpx.Client, path: str, body: dict[str, Any], pointer: str
) -> None:
    assert assert_problem(client.post(path, json=body), (400, 422))["pointer"] == pointer


# -- the Open Inference Protocol --------------------------------------------------------------------------


def tensor(name: str, shape: list[int], data: Any, datatype: str = "INT64") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [tensor("text", [0], [], "BYTES")],
        [tensor("text", [2], ["a"], "BYTES")],
        [tensor("text", [-1], ["a"], "BYTES")],
        [tensor("text", [10**40], ["a"], "BYTES")],
        [tensor("text", [2**32, 2**32], [], "BYTES")],
        [tensor("text", [1], [7], "BYTES")],
        [tensor("text", [1], ["a"], "FP32")],
        [tensor("text", [1] * 9, ["a"], "BYTES")],
        [tensor("txet", [1], ["a"], "BYTES")],
        [{"name": "text", "shape": [1], "datatype": "BYTES"}],
        [tensor("input_ids", [2, 0], [])],
        [tensor("input_ids", [0, 3], [])],
        [tensor("input_ids", [3], [1, 2, 3])],
        [tensor("input_ids", [1, 2], [1, "a"])],
        [tensor("input_ids", [1, 2], [1, 1.5])],
        [tensor("input_ids", [1, 2], [1, True])],
        [tensor("input_ids", [1, 1], [10**40])],
        [tensor("input_ids", [1, 2], [1, 2]), tensor("attention_mask", [2, 1], [1, 1])],
        [tensor("input_ids", [1, 2], [1, 2]), tensor("attention_mask", [1, 2], ["a", "b"])],
        [tensor("input_ids", [1, 2], [1, 2]), tensor("attention_mask", [1, 2], [{}, None])],
        [tensor("input_ids", [1, 2], [1, 2]), tensor("attention_mask", [1, 2], [0, 0])],
        [tensor("text", [1], ["a"], "BYTES") | {"parameters": {"binary_data_size": 10**40}}],
        [tensor("text", [1], ["a"], "BYTES") | {"parameters": {"binary_data_size": "4"}}],
    ],
)
def test_tensors_of_the_wrong_shape_or_type(client: httpx.Client, inputs: list[dict[str, Any]]) -> None:
    assert_problem(client.post(INFER, json={"inputs": inputs}), (400, 422))


def binary_request(datatype: str, shape: list[int], part: bytes, size: int | None = None) -> tuple[bytes, int]:
    head = json.dumps({
        "inputs": [{
            "name": "text" if datatype == "BYTES" else "input_ids",
            "shape": shape,
            "datatype": datatype,
            "parameters": {"binary_data_size": len(part) if size is None else size},
        }]
    }).encode()  # fmt: skip
    return head + part, len(head)


ELEMENT = struct.pack("<I", 4) + b"text"


@pytest.mark.parametrize(
    ("datatype", "shape", "part", "size"),
    [
        ("BYTES", [1], ELEMENT[:-1], None),
        ("BYTES", [1], ELEMENT[:2], None),
        ("BYTES", [1], ELEMENT, len(ELEMENT) + 1),
        ("BYTES", [1], ELEMENT, -1),
        ("BYTES", [2], ELEMENT, None),
        ("BYTES", [1], b"", None),
        ("BYTES", [1], struct.pack("<I", 0xFFFFFFFF) + b"text", None),
        ("BYTES", [1], struct.pack("<I", 2) + b"\xff\xfe", None),
        ("BYTES", [1], struct.pack("<I", 1) + b"\0", None),
        ("INT64", [1, 2], struct.pack("<qq", 1, 2)[:-3], None),
        ("INT64", [1, 2], struct.pack("<q", 1), None),
        ("INT64", [1, 1], struct.pack("<q", -5), None),
        ("INT32", [1, 1], struct.pack("<i", 2**30), None),
        ("FP32", [1, 1], struct.pack("<f", 1.0), None),
    ],
)
def test_binary_tensors_that_end_early_or_lie(
    client: httpx.Client, datatype: str, shape: list[int], part: bytes, size: int | None
) -> None:
    body, head_length = binary_request(datatype, shape, part, size)
    headers = {"inference-header-content-length": str(head_length)}
    assert_problem(client.post(INFER, content=body, headers=headers), (400, 422))


@pytest.mark.parametrize("length", [b"", b"-1", b"1e3", b"\xb2", b"9" * 5000, b"1000000", b"3"])
def test_a_header_length_that_cannot_be(client: httpx.Client, length: bytes) -> None:
    body, _ = binary_request("BYTES", [1], ELEMENT)
    headers = {b"inference-header-content-length": length}
    assert_problem(client.post(INFER, content=body, headers=headers), 422, "malformed-body")


# -- addresses, methods, headers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/nope", "/v1/nope", "/v2/nope", "/v1", "/docs", "/%ff%00", "/..%2f..%2fetc/passwd", "/" + "a" * 5000,
     "/v1/models/nope", "/v2/models/nope", "/v2/models/%ff/ready", "/v2/models/minilm/versions/9/ready"],
)  # fmt: skip
def test_an_unknown_address(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path), 404)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embed", INFER])
def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path)
    assert_problem(response, 405, "method-not-answered")
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/info", "/v2", "/v2/models/minilm", "/nope"])
@pytest.mark.parametrize(
    ("headers", "slug"),
    [
        ({}, "missing-key"),
        ({"authorization": "Bearer"}, "missing-key"),
        ({"authorization": "Basic dGs6dGs="}, "missing-key"),
        ({"authorization": f"Bearer {CANARY}"}, "invalid-key"),
        ({"x-api-key": f"tk_{CANARY}"}, "invalid-key"),
        ({"authorization": "Bearer tk_\xe9\xff"}, "invalid-key"),
    ],
)
def test_without_a_live_key_nothing_is_answered(
    live_server: LiveServer, path: str, headers: dict[str, str], slug: str
) -> None:
    with httpx.Client(base_url=live_server.base_url, timeout=30) as client:
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        if path in PATHS:
            response = client.post(path, json=BODIES[path], headers=encoded)
        else:
            response = client.get(path, headers=encoded)
    assert_problem(response, 401, slug)
    assert response.headers["www-authenticate"] == "Bearer"


def test_the_key_may_come_in_either_header(live_server: LiveServer) -> None:
    for headers in (
        {"authorization": f"Bearer {live_server.api_key}"},
        {"authorization": f"bearer  {live_server.api_key}"},
        {"x-api-key": live_server.api_key},
    ):
        assert httpx.get(f"{live_server.base_url}/v1/models", headers=headers).status_code == 200


def exchange(live_server: LiveServer, request: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    host, port = live_server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def problem_in(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem: dict[str, Any] = json.loads(body)
    assert f"x-request-id: {problem['request_id']}".encode() in head
    return int(head.split()[1]), problem


@pytest.mark.parametrize(
    "huge",
    [
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Huge: " + CANARY.encode() * 50_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X-Many: a\r\n" * 100_000 + b"\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_headers_without_end(client: httpx.Client, live_server: LiveServer, huge: bytes) -> None:
    status, problem = problem_in(exchange(live_server, huge))
    assert (status, problem["status"]) == (431, 431)
    assert CANARY not in json.dumps(problem)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,  # a TLS greeting
        b"HELO example.org\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nHost: a\r\nX-API-Key: KEY\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /console HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_what_is_not_http(client: httpx.Client, live_server: LiveServer, garbage: bytes) -> None:
    status, problem = problem_in(exchange(live_server, garbage.replace(b"KEY", live_server.api_key.encode())))
    assert (status, problem["status"]) == (400, 400)


def test_what_was_answered_is_not_answered_again(live_server: LiveServer) -> None:
    """Without a key the answer is there before the body; that the body is no HTTP changes nothing."""
    garbage = b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
    assert re.findall(rb"HTTP/1.1 (\d+)", exchange(live_server, garbage)) == [b"401"]


def test_a_caller_who_leaves_while_sending_is_nobodys_fault(client: httpx.Client, live_server: LiveServer) -> None:
    host, port = live_server.base_url.removeprefix("http://").split(":")
    for path in ("/v1/embeddings", INFER):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {live_server.api_key}\r\n"
            f"X-Request-Id: left{path[2]}\r\nContent-Length: 1000\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head.encode() + b"{")
    for name in ("left1", "left2"):
        logs = live_server.wait_for_log(f'"{name}"')
        line = json.loads(next(line for line in logs.splitlines() if f'"{name}"' in line))
        assert (line["event"], line["status"]) == ("request", 499)
    assert "unexpected error" not in live_server.logs()


def test_many_requests_on_one_connection_are_kept_apart(live_server: LiveServer) -> None:
    body = json.dumps({"inputs": "pipelined"}).encode()
    head = (
        f"POST /embed HTTP/1.1\r\nHost: a\r\nX-API-Key: {live_server.api_key}\r\nContent-Length: {len(body)}\r\n"
    )
    requests = [
        head.encode()
        + f"X-Request-Id: p{i}\r\n".encode()
        + (b"Connection: close\r\n" if i == 9 else b"")
        + b"\r\n"
        + body
        for i in range(10)
    ]
    answer = exchange(live_server, b"".join(requests))
    assert [int(number) for number in re.findall(rb"x-request-id: p(\d)", answer)] == list(range(10))


def test_head_answers_as_get_without_a_body(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")


# -- anything at all -------------------------------------------------------------------------------------

names = st.sampled_from([
    "input", "inputs", "model", "text", "texts", "labels", "label", "source", "source_sentence", "sentences",
    "query", "top_k", "dimensions", "encoding_format", "truncate", "normalize", "parameters", "raw_scores", "name",
    "shape", "datatype", "data", "outputs", "id", "description", "add_special_tokens", "prompt_name", "user",
])  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["minilm", "default", "support-desk", "BYTES", "INT64", "float", "base64", "embedding"])
)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
near_bodies = st.sampled_from(PATHS).flatmap(
    lambda path: st.dictionaries(names, anything, max_size=4).map(lambda changes: BODIES[path] | changes)
)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=anything | near_bodies | st.dictionaries(names, anything, max_size=6))
def test_no_body_breaks_the_server(client: httpx.Client, path: str, body: Any) -> None:
    response = client.post(path, content=json.dumps(body).encode())  # with NaN and lone surrogates as they are
    assert response.status_code < 500
    if response.status_code != 200:
        assert response.status_code in (400, 404, 413, 422, 429)
        assert response.json()["request_id"] == response.headers["x-request-id"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.binary(max_size=60),
    datatype=st.sampled_from(["BYTES", "INT64", "INT32"]),
    shape=st.lists(st.integers(-1, 4), max_size=3),
    shift=st.integers(-3, 3),
)
def test_no_binary_tensor_breaks_the_server(
    client: httpx.Client, part: bytes, datatype: str, shape: list[int], shift: int
) -> None:
    body, head_length = binary_request(datatype, shape, part)
    headers = {"inference-header-content-length": str(head_length + shift)}
    assert client.post(INFER, content=body, headers=headers).status_code in (200, 400, 413, 422)
