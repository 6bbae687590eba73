"""Reranking in three dialects over a tiny cross-encoder, and what a server without one answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests import tiny_models
from tests.asgi_client import client_of
from tests.tiny_imports import publish_cross_encoder, publish_import
from tests.unit.optimize.importing.tiny_checkpoints import WORDS, write_bert
from tremplin.errors import NotServable, OptimizeFailed
from tremplin.optimize.optimiser import float_parent
from tremplin.registry.manifest import Manifest
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.wiring import Server

QUERY = "which train takes light to the plants?"
TEXTS = ["the train", "le phare, the light of plants", "yes", "no order: " * 4, "sugar", "the train " * 6]
ROUNDING = 1e-5  # float32, scores up to about 3
MAX_TOKENS = 64
NO_CACHE = {"cache-control": "no-cache"}

Build = Callable[..., Server]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The folder of the cross-encoder's source."""
    return tmp_path / "cross-encoder"


@pytest.fixture
def ranker(registry: Registry, checkpoint: Path) -> Manifest:
    return publish_cross_encoder(registry, checkpoint)


@pytest.fixture
def client(build: Build, ranker: Manifest) -> httpx.AsyncClient:
    return client_of(build(ranker))


async def raw_scores(client: httpx.AsyncClient, query: str, texts: list[str], **more: Any) -> np.ndarray:
    """Return the raw score of each text, in the texts' order, past the cache."""
    body = {"query": query, "texts": texts, "raw_scores": True} | more
    answer = (await client.post("/rerank", json=body, headers=NO_CACHE)).raise_for_status().json()
    scores = np.empty(len(texts))
    scores[[rank["index"] for rank in answer]] = [rank["score"] for rank in answer]
    return scores


# -- the scores ---------------------------------------------------------------------------------------


async def test_scores_are_those_of_the_library(client: httpx.AsyncClient, checkpoint: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="the original to compare with")
    from torch.nn import Identity, Sigmoid

    original = library.CrossEncoder(str(checkpoint), device="cpu")
    texts = [*TEXTS, "the light " * 40, "p l a n t s " * 3]
    pairs = [(QUERY, text) for text in texts]
    expected = original.predict(pairs, activation_fn=Identity(), show_progress_bar=False)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(await raw_scores(client, QUERY, texts, truncate=True), expected, atol=ROUNDING)
    answer = (await client.post("/rerank", json={"query": QUERY, "texts": texts, "truncate": True})).json()
    shown = original.predict(pairs, activation_fn=Sigmoid(), show_progress_bar=False)
    assert [rank["index"] for rank in answer] == np.argsort(-shown, kind="stable").tolist()
    np.testing.assert_allclose([rank["score"] for rank in answer], np.sort(shown)[::-1], atol=ROUNDING)


async def test_a_long_query_and_a_long_text_are_cut_as_the_library_cuts(
    client: httpx.AsyncClient, checkpoint: Path
) -> None:
    """The longer one first, until both fit."""
    library = pytest.importorskip("sentence_transformers", reason="the original to compare with")
    from torch.nn import Identity

    original = library.CrossEncoder(str(checkpoint), device="cpu")
    words = [WORDS[number % len(WORDS)] for number in range(90)]
    for query, text in (
        (" ".join(words), "yes"),
        ("yes", " ".join(words)),
        (" ".join(words[:40]), " ".join(words[5:60])),
        (" ".join(words[:80]), " ".join(words[3:])),
    ):
        expected = original.predict([(query, text)], activation_fn=Identity(), show_progress_bar=False)
        found = await raw_scores(client, query, [text], truncate=True)
        np.testing.assert_allclose(found, expected, atol=ROUNDING)


async def test_a_score_does_not_depend_on_its_neighbours(client: httpx.AsyncClient) -> None:
    together = await raw_scores(client, QUERY, TEXTS)
    alone = [(await raw_scores(client, QUERY, [text]))[0] for text in TEXTS]
    backwards = (await raw_scores(client, QUERY, TEXTS[::-1]))[::-1]
    np.testing.assert_allclose(together, alone, atol=ROUNDING)
    np.testing.assert_allclose(together, backwards, atol=ROUNDING)


async def test_query_and_text_are_no_more_exchangeable_than_in_the_model(client: httpx.AsyncClient) -> None:
    """Token types and order reach the graph: a swapped pair has another score."""
    (there,) = await raw_scores(client, "the train", ["le phare"])
    (back,) = await raw_scores(client, "le phare", ["the train"])
    assert abs(there - back) > 100 * ROUNDING


async def test_what_was_ranked_before_is_not_computed_again(build: Build, ranker: Manifest) -> None:
    async with client_of(build(ranker, cache_bytes=1 << 20)) as client:
        first = await client.post("/rerank", json={"query": QUERY, "texts": TEXTS})
        await asyncio.sleep(0)  # what was computed is kept after it was answered
        again = await client.post("/rerank", json={"query": QUERY, "texts": TEXTS})
    assert "x-tremplin-cached" not in first.headers
    assert again.headers["x-tremplin-cached"] == str(len(TEXTS))
    assert again.json() == first.json()


# -- TEI ----------------------------------------------------------------------------------------------


async def test_tei_ranks_best_first(client: httpx.AsyncClient) -> None:
    for path in ("/rerank", "/"):
        answer = await client.post(path, json={"query": QUERY, "texts": TEXTS})
        assert answer.headers["x-tremplin-version"] == "ranker@1-fp32"
        assert "compute;dur=" in answer.headers["server-timing"]
        ranks = answer.json()
        assert all(set(rank) == {"index", "score"} for rank in ranks)
        assert sorted(rank["index"] for rank in ranks) == list(range(len(TEXTS)))
        scores = [rank["score"] for rank in ranks]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score < 1 for score in scores)


async def test_tei_gives_raw_scores_and_texts_back(client: httpx.AsyncClient) -> None:
    body = {"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True, "truncate": None}
    ranks = (await client.post("/rerank", json=body)).json()
    assert all(rank["text"] == TEXTS[rank["index"]] for rank in ranks)
    shown = (await client.post("/rerank", json={"query": QUERY, "texts": TEXTS})).json()
    expected = 1 / (1 + np.exp([-rank["score"] for rank in ranks]))
    np.testing.assert_allclose([rank["score"] for rank in shown], expected, atol=1e-7)


async def test_equal_texts_keep_their_order(client: httpx.AsyncClient) -> None:
    ranks = (await client.post("/rerank", json={"query": QUERY, "texts": ["yes", "no", "yes", "yes"]})).json()
    assert [rank["index"] for rank in ranks if rank["index"] != 1] == [0, 2, 3]


@pytest.mark.parametrize(
    ("changes", "status", "error_type", "pointer"),
    [
        ({"texts": []}, 400, "Empty", None),
        ({"query": " "}, 400, "Empty", "/query"),
        ({"texts": ["a", "\n"]}, 400, "Empty", "/texts/1"),
        ({"query": "a\x00"}, 422, "Tokenizer", "/query"),
        ({"texts": ["a", "b\x00"]}, 422, "Tokenizer", "/texts/1"),
        ({"texts": ["a", "the " * 70]}, 422, "Validation", "/texts/1"),
        ({"texts": "a"}, 422, "Validation", "/texts"),
        ({"query": None}, 422, "Validation", "/query"),
        ({"texts": ["a"] * 9}, 413, "Validation", None),
    ],
)
async def test_tei_is_told_what_is_wrong(
    build: Build, ranker: Manifest, changes: dict[str, Any], status: int, error_type: str, pointer: str | None
) -> None:
    async with client_of(build(ranker, max_rows_per_request=8)) as client:
        answer = await client.post("/rerank", json={"query": "a", "texts": ["b"]} | changes)
    problem = answer.json()
    assert (answer.status_code, problem["error_type"], problem.get("pointer")) == (status, error_type, pointer)
    assert problem["error"] == problem["detail"]


async def test_tokens_of_a_request_are_limited(build: Build, ranker: Manifest) -> None:
    async with client_of(build(ranker, max_tokens_per_request=MAX_TOKENS)) as client:
        answer = await client.post("/rerank", json={"query": QUERY, "texts": TEXTS})
        assert (answer.status_code, answer.json()["type"].split("#")[1]) == (413, "too-many-inputs")


async def test_info_and_tokenize_know_a_cross_encoder(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).raise_for_status().json()
    assert info["model_type"] == {"reranker": {"id2label": {"0": "label 0"}, "label2id": {"label 0": 0}}}
    assert info["max_input_length"] == MAX_TOKENS
    assert (await client.post("/tokenize", json={"inputs": "the train"})).status_code == 200


async def test_info_describes_a_lone_classifier(registry: Registry, build: Build, tmp_path: Path) -> None:
    manifest = tiny_models.publish(registry, tmp_path / "c", interface=tiny_models.CLASSIFICATION)
    async with client_of(build(manifest)) as client:
        described = (await client.get("/info")).raise_for_status().json()["model_type"]["classifier"]
    assert described["id2label"] == {"0": "low", "1": "middle", "2": "high"}


# -- Cohere and Jina ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_cohere_ranks_as_tei(client: httpx.AsyncClient, path: str) -> None:
    tei = (await client.post("/rerank", json={"query": QUERY, "texts": TEXTS})).json()
    answer = await client.post(path, json={"model": "ranker", "query": QUERY, "documents": TEXTS})
    body = answer.json()
    assert set(body) == {"id", "model", "results", "usage", "meta"}
    assert body["model"] == "ranker"
    assert body["results"] == [{"index": rank["index"], "relevance_score": rank["score"]} for rank in tei]
    assert body["usage"]["total_tokens"] == body["meta"]["tokens"]["input_tokens"] > len(TEXTS)
    assert body["meta"]["api_version"] == {"version": path[2]}


async def test_cohere_answers_the_first_documents_and_gives_them_back(client: httpx.AsyncClient) -> None:
    documents = [{"text": text, "page": number} for number, text in enumerate(TEXTS)]
    body = {"query": QUERY, "documents": documents, "top_n": 2, "return_documents": True}
    some = (await client.post("/v1/rerank", json=body)).json()["results"]
    every = (await client.post("/v1/rerank", json=body | {"top_n": 99})).json()["results"]
    assert len(every) == len(TEXTS)
    assert some == every[:2]
    assert [result["document"] for result in some] == [documents[result["index"]] for result in some]
    plain = (await client.post("/v1/rerank", json=body | {"documents": TEXTS})).json()["results"]
    assert [result["document"] for result in plain] == [{"text": TEXTS[result["index"]]} for result in plain]


async def test_cohere_cuts_long_documents_and_says_how_many(client: httpx.AsyncClient) -> None:
    body = {"query": QUERY, "documents": ["the " * 70, "yes"]}
    assert (await client.post("/v1/rerank", json=body)).headers["x-tremplin-truncated"] == "1"


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"documents": []}, 400, None),
        ({"documents": ["a", ""]}, 400, "documents"),
        ({"query": ""}, 400, "query"),
        ({"documents": [{"title": "a"}]}, 422, "documents"),
        ({"top_n": 0}, 422, "top_n"),
        ({"rank_fields": ["title", "text"]}, 422, "rank_fields"),
        ({"model": "nobody"}, 404, "model"),
    ],
)
async def test_cohere_is_told_what_is_wrong(
    client: httpx.AsyncClient, changes: dict[str, Any], status: int, param: str | None
) -> None:
    answer = await client.post("/v1/rerank", json={"query": "a", "documents": ["b"]} | changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


# -- Open Inference -----------------------------------------------------------------------------------


def tensor(name: str, rows: list[list[Any]], datatype: str = "INT64") -> dict[str, Any]:
    return {"name": name, "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": rows}


async def infer(client: httpx.AsyncClient, *inputs: dict[str, Any]) -> httpx.Response:
    return await client.post("/v2/models/ranker/infer", json={"inputs": list(inputs)})


async def test_v2_scores_pairs(client: httpx.AsyncClient) -> None:
    metadata = (await client.get("/v2/models/ranker")).json()
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 2]}]
    assert metadata["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 1]}]
    pairs = [[QUERY, text] for text in TEXTS]
    (output,) = (await infer(client, tensor("text", pairs, "BYTES"))).json()["outputs"]
    assert output["shape"] == [len(TEXTS), 1]
    np.testing.assert_allclose(output["data"], await raw_scores(client, QUERY, TEXTS), atol=ROUNDING)


async def test_v2_reads_token_ids_and_their_types(build: Build, ranker: Manifest, checkpoint: Path) -> None:
    from tokenizers import Tokenizer

    client = client_of(build(ranker, cache_bytes=1 << 20))
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch([(QUERY, text) for text in TEXTS])
    inputs = (
        tensor("input_ids", [row.ids for row in encoded]),
        tensor("attention_mask", [row.attention_mask for row in encoded]),
        tensor("token_type_ids", [row.type_ids for row in encoded]),
    )
    expected = await raw_scores(client, QUERY, TEXTS)
    found = (await infer(client, *inputs)).json()["outputs"][0]["data"]
    await asyncio.sleep(0)
    np.testing.assert_allclose(found, expected, atol=ROUNDING)
    without = (await infer(client, *inputs[:2])).json()["outputs"][0]["data"]
    await asyncio.sleep(0)
    assert np.abs(np.array(without) - expected).max() > 100 * ROUNDING
    # Kept under names of their own: neither is taken for the other.
    assert (await infer(client, *inputs)).json()["outputs"][0]["data"] == found


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor("text", [["a", "b", "c"]], "BYTES")], r"shape \[1, 3\]; this model reads pairs"),
        ([{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}], "this model reads pairs"),
        ([tensor("input_ids", [[2, 3]]), tensor("token_type_ids", [[0, 2]])], "0 for the first text and 1"),
        ([tensor("input_ids", [[2, 3]]), tensor("token_type_ids", [[0]])], "must have the shape of input_ids"),
        ([tensor("input_ids", [[2, 3]]), tensor("token_type_ids", [["a", "b"]])], "must be INT64"),
    ],
)
async def test_v2_is_told_what_is_wrong(
    client: httpx.AsyncClient, inputs: list[dict[str, Any]], message: str
) -> None:
    answer = await infer(client, *inputs)
    assert answer.status_code == 422
    assert re.search(message, answer.json()["error"])


async def test_v2_reads_no_types_for_a_model_without(registry: Registry, build: Build, tmp_path: Path) -> None:
    encoder = publish_import(registry, write_bert(tmp_path / "bert"), "ranker")
    async with client_of(build(encoder)) as client:
        ids = tensor("input_ids", [[2, 3]])
        assert (await infer(client, ids, tensor("token_type_ids", [[0, 0]]))).status_code == 200
        refused = await infer(client, ids, tensor("token_type_ids", [[0, 1]]))
    assert (refused.status_code, "this model reads none" in refused.json()["error"]) == (422, True)


# -- a server without a cross-encoder -----------------------------------------------------------------


async def test_tei_is_told_that_no_model_ranks(tiny_client: httpx.AsyncClient) -> None:
    answer = await tiny_client.post("/rerank", json={"query": "alpha", "texts": ["beta"]})
    problem = answer.json()
    assert (answer.status_code, problem["error_type"]) == (424, "Backend")
    assert "No served model is a re-ranker" in problem["error"]
    assert "Served: tiny (embedding), tiny-classifier (classification)." in problem["error"]
    assert "`tremplin import SOURCE`" in problem["error"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("model", ["default", "tiny", "nobody"])
async def test_cohere_is_told_that_no_model_ranks(tiny_client: httpx.AsyncClient, path: str, model: str) -> None:
    answer = await tiny_client.post(path, json={"model": model, "query": "alpha", "documents": ["beta"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_service")
    assert "No served model is a re-ranker" in answer.json()["error"]["message"]


async def test_another_models_name_is_refused(
    registry: Registry, build: Build, ranker: Manifest, tmp_path: Path
) -> None:
    encoder = tiny_models.publish(registry, tmp_path / "tiny")
    async with client_of(build(encoder, ranker)) as client:
        for model, status in (("tiny", 404), ("ranker", 200), ("ranker@1-fp32", 200), ("default", 200)):
            body = {"model": model, "query": "alpha", "documents": ["beta"]}
            assert (await client.post("/v1/rerank", json=body)).status_code == status, model
        refused = await client.post("/embed", json={"inputs": "alpha"})
        assert refused.status_code == 200


async def test_keys_are_asked_for(build: Build, ranker: Manifest) -> None:
    server = build(ranker, auth=True)
    key = server.keys.create("test")
    async with client_of(server) as client:
        for path, name in (("/rerank", "texts"), ("/v1/rerank", "documents"), ("/v2/rerank", "documents")):
            body = {"query": "a", name: ["b"]}
            assert (await client.post(path, json=body)).status_code == 401, path
            assert (await client.post(path, json=body, headers={"x-api-key": key})).status_code == 200, path


def test_a_plain_regression_is_not_served(registry: Registry, build: Build, tmp_path: Path) -> None:
    source = write_bert(tmp_path / "regression", labels=1)
    manifest = publish_import(registry, source, "regression", task=Task.CLASSIFICATION)
    with pytest.raises(NotServable, match="does classification and answers scores"):
        build(manifest)


def test_a_cross_encoder_is_not_optimised_without_evidence(registry: Registry, ranker: Manifest) -> None:
    with pytest.raises(OptimizeFailed, match="does reranking; only embedding and classification"):
        float_parent(registry, ranker.model)


async def test_pairs_cross_to_an_engine_in_a_process_of_its_own(build: Build, ranker: Manifest) -> None:
    expected = await raw_scores(client_of(build(ranker)), QUERY, TEXTS)
    found = await raw_scores(client_of(build(ranker, engine_process=True)), QUERY, TEXTS)
    np.testing.assert_allclose(found, expected, atol=ROUNDING)
