"""Unmodified official clients, each against the real server, and all dialects against each other."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient, constants
from numpy.typing import NDArray
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.live_server import LiveServer

TEXTS = [
    "I was charged twice this month.",
    "Où est mon colis ?",
    "The application closes when I open a large file, and then it takes minutes before it starts again.",
]
REFUND = "I want my money back for the order that never came."
# Rows of a batch are quantized together, so the same int8 text differs a little with its neighbours; one text a
# request leaves only what the dialects themselves could add.
SAME = 1e-5

Hub = Callable[..., InferenceClient]


@pytest.fixture(scope="module")
def expected(live_server: LiveServer) -> NDArray[np.float32]:
    """The vectors of TEXTS, each asked for alone, over plain HTTP."""
    with live_server.client() as client:
        rows = [client.post("/embed", json={"inputs": text}).raise_for_status().json()[0] for text in TEXTS]
    return np.array(rows, np.float32)


# -- OpenAI -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openai_client(live_server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_server.base_url}/v1", api_key=live_server.api_key) as client:
        yield client


def vectors_of(answer: Any) -> NDArray[np.float32]:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float32)


def test_openai_embeds_by_default_through_base64(
    openai_client: openai.OpenAI, expected: NDArray[np.float32]
) -> None:
    raw = openai_client.embeddings.with_raw_response.create(model="minilm", input=TEXTS[0])
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)
    answer = raw.parse()
    assert answer.model == "minilm"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3
    np.testing.assert_allclose(vectors_of(answer)[0], expected[0], atol=SAME)


def test_openai_encodings_hold_the_same_bits(openai_client: openai.OpenAI) -> None:
    floats = openai_client.embeddings.create(model="minilm", input=TEXTS[0], encoding_format="float")
    packed = openai_client.embeddings.create(model="minilm", input=TEXTS[0], encoding_format="base64")
    decoded = np.frombuffer(base64.b64decode(packed.data[0].embedding), "<f4")
    np.testing.assert_array_equal(vectors_of(floats)[0], decoded)
    assert np.linalg.norm(decoded) == pytest.approx(1.0, abs=1e-5)


def test_openai_embeds_a_list_in_its_order(openai_client: openai.OpenAI, expected: NDArray[np.float32]) -> None:
    found = vectors_of(openai_client.embeddings.create(model="default", input=TEXTS))
    assert found.shape == (3, 384)
    assert np.argmax(found @ expected.T, axis=1).tolist() == [0, 1, 2]


def test_openai_embeds_token_ids(
    openai_client: openai.OpenAI, live_server: LiveServer, expected: NDArray[np.float32]
) -> None:
    with live_server.client() as client:
        tokens = client.post("/tokenize", json={"inputs": TEXTS}).raise_for_status().json()
    rows = [[token["id"] for token in row] for row in tokens]
    one = openai_client.embeddings.create(model="minilm", input=rows[0])
    np.testing.assert_allclose(vectors_of(one)[0], expected[0], atol=SAME)
    many = vectors_of(openai_client.embeddings.create(model="minilm", input=rows))
    assert np.argmax(many @ expected.T, axis=1).tolist() == [0, 1, 2]


def test_openai_dimensions_shorten_to_a_unit_vector(
    openai_client: openai.OpenAI, expected: NDArray[np.float32]
) -> None:
    found = vectors_of(openai_client.embeddings.create(model="minilm", input=TEXTS[0], dimensions=64))[0]
    wanted = expected[0, :64] / np.linalg.norm(expected[0, :64])
    np.testing.assert_allclose(found, wanted, atol=SAME)


def test_openai_lists_and_describes_models(openai_client: openai.OpenAI) -> None:
    names = [model.id for model in openai_client.models.list()]
    assert names[0] == "default"
    assert {"minilm", "support-desk"} < set(names)
    for name in names:
        assert openai_client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ({"model": "nope", "input": "a"}, openai.NotFoundError, "unknown_model"),
        ({"model": "minilm", "input": ""}, openai.BadRequestError, "empty_text"),
        ({"model": "minilm", "input": []}, openai.BadRequestError, "empty_text"),
        ({"model": "minilm", "input": "a", "dimensions": 9999}, openai.UnprocessableEntityError, "bad_input"),
        ({"model": "support-desk", "input": "a"}, openai.NotFoundError, "unknown_model"),
    ],
)
def test_openai_errors_are_the_clients_own_classes(
    openai_client: openai.OpenAI, call: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(error) as raised:
        openai_client.embeddings.create(**call)
    assert raised.value.code == code
    assert raised.value.type == "invalid_request_error"
    assert raised.value.request_id


def test_openai_with_a_wrong_key_is_refused(live_server: LiveServer) -> None:
    with (
        openai.OpenAI(base_url=f"{live_server.base_url}/v1", api_key="tk_wrong") as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.embeddings.create(model="minilm", input="a")
    assert raised.value.code == "invalid_key"


async def test_openai_async_client_keeps_answers_apart(
    live_server: LiveServer, expected: NDArray[np.float32]
) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{live_server.base_url}/v1", api_key=live_server.api_key) as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model="minilm", input=TEXTS[i % 3]) for i in range(60))
        )
    found = np.concatenate([vectors_of(answer) for answer in answers])
    assert np.argmax(found @ expected.T, axis=1).tolist() == [i % 3 for i in range(60)]


# -- Hugging Face -------------------------------------------------------------------------------------


@pytest.fixture
def hub(
    live_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., InferenceClient]:
    """Return a function from a path to a client of it."""
    # The library asks the Hub once a day which programs use it; a fresh answer in its cache keeps it at home.
    cached = tmp_path / "harnesses.json"
    cached.write_text('{"standardEnvVars": [], "harnesses": {}}')
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(cached))
    return lambda path, key=live_server.api_key: InferenceClient(model=live_server.base_url + path, token=key)


@pytest.mark.parametrize("path", ["", "/embed"])
def test_hub_client_extracts_features(hub: Hub, path: str, expected: NDArray[np.float32]) -> None:
    client = hub(path)
    for text, wanted in zip(TEXTS, expected, strict=True):
        found = client.feature_extraction(text)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, [wanted], atol=SAME)
    assert client.feature_extraction(TEXTS[0], normalize=True, truncate=True).shape == (1, 384)
    assert client.feature_extraction(TEXTS[0], dimensions=32).shape == (1, 32)


@pytest.mark.parametrize("path", ["", "/similarity"])
def test_hub_client_compares_sentences(hub: Hub, path: str, expected: NDArray[np.float32]) -> None:
    scores = hub(path).sentence_similarity(TEXTS[0], TEXTS)
    np.testing.assert_allclose(scores, expected @ expected[0], atol=0.02)  # int8: neighbours in the batch
    assert np.argmax(scores) == 0


@pytest.mark.parametrize("path", ["", "/predict"])
def test_hub_client_classifies(hub: Hub, path: str) -> None:
    client = hub(path)
    scores = client.text_classification(REFUND)
    assert scores[0].label == "refund_request"
    assert sum(element.score for element in scores) == pytest.approx(1.0, abs=1e-4)
    assert [element.score for element in scores] == sorted((e.score for e in scores), reverse=True)
    assert client.text_classification(REFUND, top_k=2) == scores[:2]


def test_hub_client_is_told_what_cannot_be_done(hub: Hub) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    client = hub("")
    with pytest.raises(HfHubHTTPError, match="422"):
        client.text_classification(REFUND, function_to_apply="none")
    with pytest.raises(HfHubHTTPError, match="422"):
        client.feature_extraction("a", normalize=False)
    with pytest.raises(HfHubHTTPError, match="401"):
        hub("", "tk_wrong").feature_extraction("a")


def test_root_is_told_apart_by_shape_not_by_words(live_server: LiveServer) -> None:
    with live_server.client() as client:
        for word in ("source_sentence", "parameters"):
            found = client.post("/", json={"inputs": word})
            assert found.status_code == 200
            assert found.json() == client.post("/embed", json={"inputs": word}).json()


# -- Open Inference Protocol ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def triton_client(live_server: LiveServer) -> Iterator[Any]:
    client = triton.InferenceServerClient(live_server.base_url.removeprefix("http://"))
    yield client
    client.close()


def texts_input(texts: list[str], *, is_binary: bool = True) -> Any:
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], object), binary_data=is_binary)
    return tensor


def test_triton_client_asks_how_the_server_is(triton_client: Any, live_server: LiveServer) -> None:
    headers = live_server.headers
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("minilm", headers=headers)
    assert triton_client.is_model_ready("minilm", "2-int8", headers=headers)
    assert not triton_client.is_model_ready("nope", headers=headers)
    assert triton_client.get_server_metadata(headers=headers)["extensions"] == [
        "binary_tensor_data",
        "model_repository",
    ]
    metadata = triton_client.get_model_metadata("minilm", headers=headers)
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}]


@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [None, True, False])
def test_triton_client_embeds_texts(
    triton_client: Any,
    live_server: LiveServer,
    expected: NDArray[np.float32],
    is_binary_in: bool,
    is_binary_out: bool | None,
) -> None:
    outputs = None
    if is_binary_out is not None:
        outputs = [triton.InferRequestedOutput("embedding", binary_data=is_binary_out)]
    for text, wanted in zip(TEXTS, expected, strict=True):
        answer = triton_client.infer(
            "minilm",
            [texts_input([text], is_binary=is_binary_in)],
            outputs=outputs,
            request_id="mine-7",
            headers=live_server.headers,
        )
        np.testing.assert_allclose(answer.as_numpy("embedding"), [wanted], atol=SAME)
        assert answer.get_response()["id"] == "mine-7"
        assert answer.get_response()["model_version"] == "2-int8"


def test_triton_client_embeds_token_ids_dropping_padding(
    triton_client: Any, live_server: LiveServer, expected: NDArray[np.float32]
) -> None:
    with live_server.client() as client:
        row = [t["id"] for t in client.post("/tokenize", json={"inputs": TEXTS[0]}).json()[0]]
    ids = triton.InferInput("input_ids", [1, len(row) + 3], "INT64")
    ids.set_data_from_numpy(np.array([[*row, 0, 0, 0]], np.int64))
    mask = triton.InferInput("attention_mask", [1, len(row) + 3], "INT64")
    mask.set_data_from_numpy(np.array([[1] * len(row) + [0] * 3], np.int64))
    answer = triton_client.infer("minilm", [ids, mask], headers=live_server.headers)
    np.testing.assert_allclose(answer.as_numpy("embedding"), expected[:1], atol=SAME)


@pytest.mark.parametrize("is_binary", [True, False])
def test_triton_client_classifies(triton_client: Any, live_server: LiveServer, is_binary: bool) -> None:
    wanted = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("label", "probabilities")]
    answer = triton_client.infer(
        "support-desk", [texts_input([REFUND, TEXTS[0]])], outputs=wanted, headers=live_server.headers
    )
    labels = triton_client.get_model_metadata("support-desk", headers=live_server.headers)["parameters"]["labels"]
    probabilities = answer.as_numpy("probabilities")
    assert probabilities.shape == (2, len(labels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-4)
    shown = [value.decode() if isinstance(value, bytes) else value for value in answer.as_numpy("label")]
    assert shown == [labels[i] for i in probabilities.argmax(axis=1)]
    assert shown[0] == "refund_request"


def test_triton_client_asks_for_one_output_of_two(triton_client: Any, live_server: LiveServer) -> None:
    answer = triton_client.infer(
        "support-desk",
        [texts_input([REFUND])],
        outputs=[triton.InferRequestedOutput("label")],
        headers=live_server.headers,
    )
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["label"]


def test_triton_client_reads_our_errors(triton_client: Any, live_server: LiveServer) -> None:
    with pytest.raises(InferenceServerException, match="no model 'nope'"):
        triton_client.infer("nope", [texts_input(["a"])], headers=live_server.headers)
    with pytest.raises(InferenceServerException, match="empty"):
        triton_client.infer("minilm", [texts_input([" "])], headers=live_server.headers)
    with pytest.raises(InferenceServerException, match="no output 'logits'"):
        triton_client.infer(
            "minilm",
            [texts_input(["a"])],
            outputs=[triton.InferRequestedOutput("logits")],
            headers=live_server.headers,
        )
    with pytest.raises(InferenceServerException, match="API key"):
        triton_client.infer("minilm", [texts_input(["a"])])


# -- classification, two dialects -------------------------------------------------------------------------


def test_dialects_classify_alike(live_server: LiveServer, triton_client: Any) -> None:
    with live_server.client() as client:
        native = client.post("/v1/classify", json={"inputs": REFUND}).json()["results"][0]["scores"]
        tei = client.post("/predict", json={"inputs": REFUND}).json()
    answer = triton_client.infer("support-desk", [texts_input([REFUND])], headers=live_server.headers)
    labels = triton_client.get_model_metadata("support-desk", headers=live_server.headers)["parameters"]["labels"]
    v2 = dict(zip(labels, answer.as_numpy("probabilities")[0].tolist(), strict=True))
    assert [score["label"] for score in native] == [score["label"] for score in tei]
    for one, other in zip(native, tei, strict=True):
        assert one["probability"] == pytest.approx(other["score"], abs=SAME)
        assert one["probability"] == pytest.approx(v2[one["label"]], abs=SAME)
