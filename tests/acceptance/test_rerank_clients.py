"""Unmodified clients for cross-encoders, token embeddings and SPLADE, against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError
from tritonclient import http as triton

from tests.live_server import LiveServer, start_server
from tests.tiny_imports import publish_cross_encoder, publish_import
from tests.unit.optimize.importing.tiny_checkpoints import HIDDEN, write_bert, write_masked_bert
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.wiring import Places

QUERY = "which train takes light to the plants?"
TEXTS = ["the train", "le phare, the light of plants", "yes", "no order", "sugar", "the train " * 6]
ROUNDING = 1e-5  # float32


@pytest.fixture(scope="module")
def ranking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of a cross-encoder, an encoder with token embeddings and a SPLADE model, all tiny."""
    folder = tmp_path_factory.mktemp("ranking")
    registry = Registry(Places(folder / "data").registry)
    publish_cross_encoder(registry, folder / "ranker")
    publish_import(registry, write_bert(folder / "encoder"), "encoder", token_embeddings=True)
    publish_import(registry, write_masked_bert(folder / "splade"), "splade", task=Task.SPARSE_EMBEDDING)
    server = start_server(folder / "data", "ranker", "encoder", "splade", "--threads", "1", command="serve")
    try:
        yield server
        assert server.stop() == 0, server.logs()[-4000:]
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def expected(ranking_server: LiveServer) -> list[dict[str, Any]]:
    """TEI's answer over plain HTTP, best first."""
    with ranking_server.client() as client:
        answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS}).raise_for_status()
        ranks: list[dict[str, Any]] = answer.json()
    return ranks


# -- Cohere -------------------------------------------------------------------------------------------


def check(results: Any, expected: list[dict[str, Any]]) -> None:
    assert [result.index for result in results] == [rank["index"] for rank in expected]
    np.testing.assert_allclose(
        [result.relevance_score for result in results], [rank["score"] for rank in expected], atol=ROUNDING
    )


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_cohere_client_reranks(version: str, ranking_server: LiveServer, expected: list[dict[str, Any]]) -> None:
    library = pytest.importorskip("cohere", reason="Cohere's own client is not installed")
    make = getattr(library, version)
    with make(api_key=ranking_server.api_key, base_url=ranking_server.base_url) as client:
        answer = client.rerank(model="ranker", query=QUERY, documents=TEXTS)
        check(answer.results, expected)
        assert answer.id
        assert answer.meta.api_version.version == ("2" if version == "ClientV2" else "1")
        assert answer.meta.tokens.input_tokens > len(TEXTS)
        check(client.rerank(model="ranker", query=QUERY, documents=TEXTS, top_n=2).results, expected[:2])
        with pytest.raises(library.NotFoundError) as raised:
            client.rerank(model="nobody", query=QUERY, documents=TEXTS)
        assert "Served: default, ranker." in raised.value.body["detail"]
        with pytest.raises(library.BadRequestError):
            client.rerank(model="ranker", query=" ", documents=TEXTS)


def test_cohere_client_is_given_documents_back(ranking_server: LiveServer, expected: list[dict[str, Any]]) -> None:
    library = pytest.importorskip("cohere", reason="Cohere's own client is not installed")
    documents = [{"text": text} for text in TEXTS]
    with library.Client(api_key=ranking_server.api_key, base_url=ranking_server.base_url) as client:
        answer = client.rerank(model="ranker", query=QUERY, documents=documents, return_documents=True)
    check(answer.results, expected)
    assert [result.document.text for result in answer.results] == [TEXTS[rank["index"]] for rank in expected]


async def test_cohere_async_client_keeps_answers_apart(
    ranking_server: LiveServer, expected: list[dict[str, Any]]
) -> None:
    import asyncio

    library = pytest.importorskip("cohere", reason="Cohere's own client is not installed")
    scores = {rank["index"]: rank["score"] for rank in expected}
    orders = [[(start + step) % len(TEXTS) for step in range(3)] for start in range(len(TEXTS))] * 5
    make = library.AsyncClientV2
    async with make(api_key=ranking_server.api_key, base_url=ranking_server.base_url) as client:
        answers = await asyncio.gather(
            *(client.rerank(model="ranker", query=QUERY, documents=[TEXTS[i] for i in order]) for order in orders)
        )
    for order, answer in zip(orders, answers, strict=True):
        for result in answer.results:
            assert result.relevance_score == pytest.approx(scores[order[result.index]], abs=ROUNDING)


# -- Hugging Face -------------------------------------------------------------------------------------


def hub(server: LiveServer, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InferenceClient:
    # The library asks the Hub once a day which programs use it; a fresh answer in its cache keeps it at home.
    cached = tmp_path / "harnesses.json"
    cached.write_text('{"standardEnvVars": [], "harnesses": {}}')
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(cached))
    return InferenceClient(model=server.base_url + path, token=server.api_key)


def test_hub_client_extracts_token_features(
    ranking_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = hub(ranking_server, "/embed_all", tmp_path, monkeypatch)
    with ranking_server.client() as plain:
        tokens = plain.post("/tokenize", json={"inputs": TEXTS[0]}).json()[0]
    assert client.feature_extraction(TEXTS[0]).shape == (1, len(tokens), HIDDEN)


def test_hub_client_is_told_what_a_server_cannot(
    live_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/embed_all", "/embed_sparse"):
        with pytest.raises(HfHubHTTPError, match="424"):
            hub(live_server, path, tmp_path, monkeypatch).feature_extraction("a")


# -- TEI's documented shapes --------------------------------------------------------------------------


def test_tei_shapes(ranking_server: LiveServer, expected: list[dict[str, Any]]) -> None:
    assert all(type(rank["index"]) is int and type(rank["score"]) is float for rank in expected)
    assert [set(rank) for rank in expected] == [{"index", "score"}] * len(TEXTS)
    with ranking_server.client() as client:
        body = {"query": QUERY, "texts": TEXTS, "return_text": True, "raw_scores": False, "truncate": True}
        ranks = client.post("/rerank", json=body).json()
        assert [(rank["index"], rank["text"]) for rank in ranks] == [
            (rank["index"], TEXTS[rank["index"]]) for rank in expected
        ]
        (sparse,) = client.post("/embed_sparse", json={"inputs": TEXTS[0]}).json()
        assert all(set(entry) == {"index", "value"} and entry["value"] > 0 for entry in sparse)
        assert np.shape(client.post("/embed_all", json={"inputs": TEXTS[:1]}).json())[2] == HIDDEN


# -- Open Inference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_binary", [True, False])
def test_triton_client_scores_pairs(
    ranking_server: LiveServer, expected: list[dict[str, Any]], is_binary: bool
) -> None:
    client = triton.InferenceServerClient(ranking_server.base_url.removeprefix("http://"))
    tensor = triton.InferInput("text", [len(TEXTS), 2], "BYTES")
    pairs = np.array([[QUERY.encode(), text.encode()] for text in TEXTS], object)
    tensor.set_data_from_numpy(pairs, binary_data=is_binary)
    scores = client.infer("ranker", [tensor], headers=ranking_server.headers).as_numpy("scores")
    client.close()
    assert scores.shape == (len(TEXTS), 1)
    shown = 1 / (1 + np.exp(-scores[:, 0]))
    for rank in expected:
        assert rank["score"] == pytest.approx(shown[rank["index"]], abs=ROUNDING)


# -- a model of the bundled kind only -----------------------------------------------------------------


def test_a_server_without_a_cross_encoder_says_so(live_server: LiveServer) -> None:
    with live_server.client() as client:
        tei = client.post("/rerank", json={"query": "a", "texts": ["b"]})
        jina = client.post("/v1/rerank", json={"model": "minilm", "query": "a", "documents": ["b"]})
    assert (tei.status_code, tei.json()["error_type"]) == (424, "Backend")
    assert (jina.status_code, jina.json()["error"]["code"]) == (404, "unknown_service")
    for answer in (tei, jina):
        assert "Served: minilm (embedding), support-desk (classification)." in answer.json()["detail"]
