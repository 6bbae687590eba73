"""The edge and the routes, in this process, over tiny models: what a socket would only slow down."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

from tests.asgi_client import client_of
from tests.conftest import TinyServer
from tremplin.errors import EngineFailed
from tremplin.registry.task import Task
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

INFER = "/v2/models/tiny/infer"
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["alpha"]}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": "alpha"}),
    ("/embed", {"inputs": "alpha"}),
    ("/", {"inputs": "alpha"}),
    ("/similarity", {"inputs": {"source_sentence": "alpha", "sentences": ["beta"]}}),
    ("/predict", {"inputs": "alpha"}),
    ("/v1/classify", {"inputs": "alpha"}),
    ("/v1/similarity", {"source": "alpha", "sentences": ["beta"]}),
    ("/v1/search", {"query": "alpha"}),
    ("/v1/zero-shot", {"text": "alpha", "labels": [{"label": "beta"}, {"label": "gamma"}]}),
    ("/v1/explain", {"text": "alpha beta"}),
    (INFER, {"inputs": [TENSOR]}),
]


@pytest.fixture(autouse=True)
def _logs_are_ours() -> None:
    """Another test may have configured structlog for a server's standard error."""
    structlog.reset_defaults()


@pytest.fixture
def break_engines(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Outputs]], None]:
    """Return a function that puts another ``run`` into every engine, those that will take its place as well."""
    return lambda run: monkeypatch.setattr(OnnxRuntimeEngine, "run", run)


async def test_every_call_is_answered(tiny_client: httpx.AsyncClient) -> None:
    for path, body in CALLS:
        answer = await tiny_client.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["x-request-id"]
        phases = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
        assert list(phases) == ["tokenize", "queue", "compute"]
        assert all(float(value) >= 0 for value in phases.values())


async def test_an_engines_failure_is_told_in_each_dialect(
    tiny_server: TinyServer, break_engines: Callable[[Callable[..., Outputs]], None]
) -> None:
    def run(_: object, batch: TokenBatch) -> Outputs:
        raise EngineFailed("The engine has no memory left.")

    server = tiny_server()
    await server.services.index_documents()
    break_engines(run)
    async with client_of(server) as client:
        for path, body in CALLS:
            answer = await client.post(path, json=body)
            assert answer.status_code == (424 if path in ("/embed", "/", "/similarity", "/predict") else 500), path
            assert answer.json()["type"].endswith("#engine-failed")
            assert answer.json()["detail"] == "The engine has no memory left."
        metrics = (await client.get("/metrics")).text
        assert 'tremplin_batch_failures_total{model="tiny",version="1-fp32"}' in metrics
        assert (await client.get("/livez")).status_code == 200


async def test_a_bug_is_logged_under_the_id_its_caller_gets(tiny_server: TinyServer) -> None:
    server = tiny_server()
    await server.services.index_documents()

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a user's text")

    for inferencer in server.services.fleet.inferencers:
        inferencer.infer = broken  # type: ignore[assignment]
    async with client_of(server) as client:
        for path, body in CALLS:
            with capture_logs() as logs:
                answer = await client.post(path, json=body, headers={"x-request-id": "mine"})
            assert answer.status_code == 500
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert problem["request_id"] == answer.headers["x-request-id"] == "mine"
            assert "user's text" not in answer.text
            assert "KeyError" not in answer.text
            (line,) = [line for line in logs if line["event"] == "unexpected error"]
            assert line["request_id"] == "mine"


async def test_a_full_queue_is_told_with_a_time_to_come_back(tiny_server: TinyServer) -> None:
    server = tiny_server(max_queue_tokens=16)
    inferencer = server.services.fleet.find("tiny")
    ticket = inferencer.admission.enter([16])
    async with client_of(server) as client:
        for path, body in (("/embed", {"inputs": "alpha beta"}), (INFER, {"inputs": [TENSOR]})):
            answer = await client.post(path, json=body)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert 0 < int(answer.headers["retry-after-ms"]) <= 120_000
    inferencer.admission.leave(ticket)


async def test_limits_come_from_the_settings(tiny_server: TinyServer) -> None:
    server = tiny_server(max_rows_per_request=3, max_tokens_per_request=16, max_body_bytes=1024)
    async with client_of(server) as client:
        assert (await client.post("/embed", json={"inputs": ["alpha", "beta", "gamma"]})).status_code == 200
        for body, slug in (
            ({"inputs": ["alpha"] * 4}, "too-many-inputs"),
            ({"inputs": [f"alpha beta gamma {word}" for word in ("alpha", "beta", "gamma")]}, "too-many-inputs"),
            ({"inputs": "alpha " * 200}, "body-too-large"),
        ):
            answer = await client.post("/embed", json=body)
            assert (answer.status_code, answer.json()["type"].split("#")[1]) == (413, slug)

        async def chunks() -> Any:
            for _ in range(40):
                yield b" " * 50

        for path in ("/embed", INFER):
            answer = await client.post(path, content=chunks())
            assert (answer.status_code, answer.json()["type"].split("#")[1]) == (413, "body-too-large")


async def test_a_starting_server_takes_no_work(tiny_server: TinyServer) -> None:
    server = tiny_server()
    server.state.is_started = False
    async with client_of(server) as client:
        probe = await client.get("/readyz")
        assert (probe.status_code, probe.json()["status"]) == (503, "starting")
        assert (await client.get("/livez")).status_code == 200
        for path, body in CALLS:
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["type"].split("#")[1]) == (503, "not-ready"), path


async def test_a_draining_server_answers_and_closes_connections(tiny_server: TinyServer) -> None:
    server = tiny_server()
    await server.services.index_documents()
    server.state.is_draining = True
    async with client_of(server) as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/v2/models/tiny/ready")).status_code == 503
        for path, body in CALLS:
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close"), path


async def test_an_engine_that_closed_makes_the_server_unready(tiny_server: TinyServer) -> None:
    server = tiny_server()
    server.services.fleet.find("tiny").engine.close()
    async with client_of(server) as client:
        probe = await client.get("/readyz")
        assert probe.status_code == 503
        assert probe.json()["engines"] == {"tiny@1-fp32": False, "tiny-classifier@1-fp32": True}
        assert (await client.get("/v2/models/tiny/ready")).status_code == 503
        assert (await client.get("/v2/models/tiny-classifier/ready")).status_code == 200


async def test_keys_are_asked_for_on_all_but_the_public_paths(tiny_server: TinyServer) -> None:
    server = tiny_server(auth=True)
    key = server.keys.create("test")
    await server.services.index_documents()
    async with client_of(server) as client:
        for path in (
            "/livez",
            "/readyz",
            "/health",
            "/metrics",
            "/openapi.json",
            "/v2/health/live",
            "/v2/health/ready",
        ):
            assert (await client.get(path)).status_code == 200, path
            assert (await client.post(path)).status_code in (401, 405), path
        for path, body in CALLS:
            assert (await client.post(path, json=body)).status_code == 401, path
            assert (await client.post(path, json=body, headers={"x-api-key": key})).status_code == 200, path
        for path in ("/v1/models", "/info", "/v2", "/v2/models/tiny", "/nothing"):
            assert (await client.get(path)).status_code == 401, path


async def test_dialects_give_the_same_vectors(tiny_client: httpx.AsyncClient) -> None:
    texts = ["alpha", "beta gamma", "delta epsilon alpha"]
    tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "data": texts}
    openai = (await tiny_client.post("/v1/embeddings", json={"input": texts})).json()
    tei = (await tiny_client.post("/embed", json={"inputs": texts})).json()
    v2 = (await tiny_client.post(INFER, json={"inputs": [tensor]})).json()
    vectors = np.array(tei)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal([item["embedding"] for item in openai["data"]], vectors)
    np.testing.assert_array_equal(np.reshape(v2["outputs"][0]["data"], (3, 4)), vectors)
    scores = (await tiny_client.post("/v1/similarity", json={"source": texts[0], "sentences": texts})).json()[
        "scores"
    ]
    np.testing.assert_allclose(scores, vectors @ vectors[0], atol=1e-6)


async def test_a_classifier_that_is_unsure_abstains(tiny_client: httpx.AsyncClient) -> None:
    texts = ["alpha", "beta", "gamma", "delta", "epsilon", "alpha beta gamma delta epsilon"]
    results = (await tiny_client.post("/v1/classify", json={"inputs": texts})).json()["results"]
    for result in results:
        best = result["scores"][0]
        assert result["abstained"] is (best["probability"] < 0.4)
        assert result["label"] == (None if result["abstained"] else best["label"])
        assert sum(score["probability"] for score in result["scores"]) == pytest.approx(1.0, abs=1e-5)
    assert {result["abstained"] for result in results} == {True, False}


async def test_a_name_can_be_a_model_a_version_or_the_default(tiny_client: httpx.AsyncClient) -> None:
    answers = [
        (await tiny_client.post("/v1/embeddings", json={"input": "alpha", "model": name})).json()["data"]
        for name in ("tiny", "tiny@1-fp32", "default")
    ]
    assert answers[0] == answers[1] == answers[2]
    refused = (await tiny_client.post("/v1/embeddings", json={"input": "a", "model": "tiny-classifier"})).json()
    assert "does classification, not embedding" in refused["detail"]
    assert "Served: default, tiny." in refused["detail"]


async def test_a_server_without_a_classifier_says_so(tiny_server: TinyServer) -> None:
    server = tiny_server()
    fleet = server.services.fleet
    object.__setattr__(fleet, "defaults", {Task.EMBEDDING: fleet.find("tiny")})
    object.__setattr__(fleet, "inferencers", (fleet.find("tiny"),))
    async with client_of(server) as client:
        answer = await client.post("/v1/classify", json={"inputs": "alpha"})
    assert answer.status_code == 404
    assert "No served model can do this." in answer.json()["detail"]


def test_libraries_records_keep_only_their_name(capfd: pytest.CaptureFixture[str]) -> None:
    from tremplin.monitor.logs import configure_logs

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        access = configure_logs("info")
        logging.getLogger("somebody").warning("a user's text")
        logging.getLogger("uvicorn.error").error("Invalid HTTP request received.")
        access.request("r1", "GET", "/livez", 200, 0.0123)
        try:
            raise ValueError("a user's text")
        except ValueError as error:
            structlog.get_logger().exception("unexpected error", error=error, request_id="r1")
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == [
        "library message", "Invalid HTTP request received.", "request", "unexpected error",
    ]  # fmt: skip
    assert lines[0]["logger"] == "somebody"
    assert lines[2]["ms"] == 12.3
    assert lines[3]["error"] == "ValueError"
    assert lines[3]["at"].startswith("test_edge.py:")
    assert "exc_info" not in lines[3]
    assert not any("user's text" in str(line) for line in lines)
