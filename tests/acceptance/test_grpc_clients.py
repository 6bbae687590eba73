"""The Open Inference Protocol over gRPC, with Triton's unmodified clients against the real server."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.live_server import PATIENCE_S, LiveServer, run_command

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient's gRPC part is not installed")
triton_aio = pytest.importorskip("tritonclient.grpc.aio")
from tritonclient.utils import InferenceServerException  # noqa: E402 (after what may be missing)

from tests.live_grpc import address_of  # noqa: E402
from tremplin.store.keys import LOOK_EVERY_S  # noqa: E402

TEXTS = [
    "I was charged twice this month.",
    "Où est mon colis ?",
    "The application closes when I open a large file, and then it takes minutes before it starts again.",
]
REFUND = "I want my money back for the order that never came."
# One text a request: what is left is only what the ways to ask could add.
SAME = 1e-5


@pytest.fixture(scope="module")
def expected(grpc_server: LiveServer) -> NDArray[np.float32]:
    """The vectors of TEXTS over HTTP."""
    with grpc_server.client() as client:
        rows = [client.post("/embed", json={"inputs": text}).raise_for_status().json()[0] for text in TEXTS]
    return np.array(rows, np.float32)


@pytest.fixture
def client(grpc_server: LiveServer) -> Iterator[Any]:
    client = triton.InferenceServerClient(address_of(grpc_server))
    yield client
    client.close()


def texts_input(*texts: str) -> Any:
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    return tensor.set_data_from_numpy(np.array([text.encode() for text in texts], object))


def test_client_asks_how_the_server_is(client: Any, grpc_server: LiveServer) -> None:
    headers = grpc_server.headers
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("minilm", headers=headers)
    assert client.is_model_ready("minilm", "2-int8", headers=headers)
    assert not client.is_model_ready("minilm", "1-fp32", headers=headers)
    assert not client.is_model_ready("nope", headers=headers)
    metadata = client.get_server_metadata(headers=headers, as_json=True)
    assert metadata["name"] == "tremplin"
    assert metadata["extensions"] == ["model_repository"]
    model = client.get_model_metadata("minilm", headers=headers, as_json=True)
    assert model["versions"] == ["2-int8"]
    assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": ["-1"]}]
    assert model["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": ["-1", "384"]}]


def test_client_embeds_texts(client: Any, grpc_server: LiveServer, expected: NDArray[np.float32]) -> None:
    for number, (text, wanted) in enumerate(zip(TEXTS, expected, strict=True)):
        answer = client.infer(
            "minilm", [texts_input(text)], request_id=f"mine-{number}", headers=grpc_server.headers
        )
        np.testing.assert_allclose(answer.as_numpy("embedding"), [wanted], atol=SAME)
        response = answer.get_response()
        assert (response.id, response.model_name, response.model_version) == (f"mine-{number}", "minilm", "2-int8")
    batch = client.infer("minilm", [texts_input(*TEXTS)], headers=grpc_server.headers).as_numpy("embedding")
    assert np.argmax(batch @ expected.T, axis=1).tolist() == [0, 1, 2]


def test_client_embeds_token_ids_dropping_padding(
    client: Any, grpc_server: LiveServer, expected: NDArray[np.float32]
) -> None:
    with grpc_server.client() as http:
        row = [token["id"] for token in http.post("/tokenize", json={"inputs": TEXTS[0]}).json()[0]]
    ids = triton.InferInput("input_ids", [1, len(row) + 3], "INT64")
    ids.set_data_from_numpy(np.array([[*row, 0, 0, 0]], np.int64))
    mask = triton.InferInput("attention_mask", [1, len(row) + 3], "INT64")
    mask.set_data_from_numpy(np.array([[1] * len(row) + [0] * 3], np.int64))
    types = triton.InferInput("token_type_ids", [1, len(row) + 3], "INT64")
    types.set_data_from_numpy(np.zeros((1, len(row) + 3), np.int64))
    answer = client.infer("minilm", [ids, mask, types], headers=grpc_server.headers)
    np.testing.assert_allclose(answer.as_numpy("embedding"), expected[:1], atol=SAME)


def test_client_classifies_and_chooses_outputs(client: Any, grpc_server: LiveServer) -> None:
    both = client.infer("support-desk", [texts_input(REFUND, TEXTS[0])], headers=grpc_server.headers)
    probabilities = both.as_numpy("probabilities")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-4)
    assert both.as_numpy("label")[0] == b"refund_request"
    one = client.infer(
        "support-desk",
        [texts_input(REFUND)],
        outputs=[triton.InferRequestedOutput("label")],
        headers=grpc_server.headers,
    )
    assert [output.name for output in one.get_response().outputs] == ["label"]


def test_client_reads_our_errors(client: Any, grpc_server: LiveServer) -> None:
    headers = grpc_server.headers
    label = [triton.InferRequestedOutput("logits")]
    for call, status, message in (
        (lambda: client.infer("nope", [texts_input("a")], headers=headers), "NOT_FOUND", "no model 'nope'"),
        (lambda: client.infer("minilm", [texts_input(" ")], headers=headers), "INVALID_ARGUMENT", "empty"),
        (
            lambda: client.infer("minilm", [texts_input("a")], outputs=label, headers=headers),
            "NOT_FOUND",
            "logits",
        ),
        (lambda: client.infer("minilm", [texts_input("a")]), "UNAUTHENTICATED", "API key"),
        (lambda: client.get_inference_statistics(headers=headers), "UNIMPLEMENTED", "not found"),
    ):
        with pytest.raises(InferenceServerException, match=message) as raised:
            call()
        assert raised.value.status() == f"StatusCode.{status}"


def test_client_compresses(client: Any, grpc_server: LiveServer, expected: NDArray[np.float32]) -> None:
    for algorithm in ("gzip", "deflate"):
        answer = client.infer(
            "minilm", [texts_input(TEXTS[1])], headers=grpc_server.headers, compression_algorithm=algorithm
        )
        np.testing.assert_allclose(answer.as_numpy("embedding"), expected[1:2], atol=SAME)


def test_client_lists_loads_and_unloads(grpc_server: LiveServer, client: Any) -> None:
    operator = grpc_server.headers
    index = {(m.name, m.version): m.state for m in client.get_model_repository_index(headers=operator).models}
    assert index[("minilm", "2-int8")] == "READY"
    assert index[("minilm", "1-fp32")] == "UNAVAILABLE"

    made = run_command("keys", "create", "caller", "--data", str(grpc_server.data))
    caller = {"x-api-key": made.stdout.strip()}
    time.sleep(3 * LOOK_EVERY_S)  # a key made elsewhere counts a moment later
    assert client.get_model_repository_index(headers=caller).models
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="operate") as raised:
            change("support-desk", headers=caller)
        assert raised.value.status() == "StatusCode.PERMISSION_DENIED"

    client.unload_model("support-desk", headers=operator)
    assert not client.is_model_ready("support-desk", headers=operator)
    client.load_model("support-desk", headers=operator)
    assert client.is_model_ready("support-desk", headers=operator)
    with pytest.raises(InferenceServerException) as raised:
        client.load_model("nope", headers=operator)
    assert raised.value.status() == "StatusCode.NOT_FOUND"


def test_client_streams_in_order_and_a_failure_ends_nothing(
    client: Any, grpc_server: LiveServer, expected: NDArray[np.float32]
) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=grpc_server.headers)
    for number in range(100):
        model = "nope" if number == 50 else "minilm"
        client.async_stream_infer(
            model, [texts_input(TEXTS[number % 3])], request_id=str(number), enable_empty_final_response=True
        )
    client.stop_stream()
    found = [answers.get(timeout=PATIENCE_S) for _ in range(100)]
    assert "no model 'nope'" in str(found[50][1])
    for number, (result, error) in enumerate(found):
        if number == 50:
            continue
        assert error is None
        response = result.get_response()
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        # In a batch an int8 vector differs a little with its neighbours.
        assert np.argmax(result.as_numpy("embedding") @ expected.T) == number % 3


def test_client_streams_are_refused_without_a_key(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=PATIENCE_S)
    assert result is None
    assert error.status() == "StatusCode.UNAUTHENTICATED"
    client.stop_stream()


async def test_async_client_keeps_answers_apart(grpc_server: LiveServer, expected: NDArray[np.float32]) -> None:
    async with triton_aio.InferenceServerClient(address_of(grpc_server)) as client:
        answers = await asyncio.gather(
            *(
                client.infer("minilm", [texts_input(TEXTS[i % 3])], request_id=str(i), headers=grpc_server.headers)
                for i in range(60)
            )
        )
        for number, answer in enumerate(answers):
            assert answer.get_response().id == str(number)
            assert np.argmax(answer.as_numpy("embedding") @ expected.T) == number % 3

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(10):
                yield {
                    "model_name": "minilm",
                    "inputs": [texts_input(TEXTS[number % 3])],
                    "request_id": str(number),
                }

        ids = []
        async for result, error in client.stream_infer(requests(), headers=grpc_server.headers):
            assert error is None
            ids.append(result.get_response().id)
        assert ids == [str(number) for number in range(10)]
