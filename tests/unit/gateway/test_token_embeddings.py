"""TEI's /embed_all and /embed_sparse, over graphs that can and for servers that cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.asgi_client import client_of
from tests.tiny_imports import publish_import
from tests.unit.optimize.importing.tiny_checkpoints import (
    HIDDEN,
    write_bert,
    write_masked_bert,
    write_sentence_modules,
)
from tremplin.optimize.importing.checkpoint import open_checkpoint
from tremplin.optimize.importing.numpy_reference import NumpyReference
from tremplin.registry.manifest import Manifest
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.wiring import Server

TEXTS = ["the train", "le phare, the light of plants", "yes", "no order: " * 4, "sugar", "the train " * 6]
ROUNDING = 1e-5  # float32, components up to about 4
NO_CACHE = {"cache-control": "no-cache"}
LONG = "the " * 70
TEXT_TOKENS = "token_embeddings"

Build = Callable[..., Server]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A sentence-transformers model."""
    folder = write_bert(tmp_path / "encoder")
    write_sentence_modules(
        folder, {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}, ("Normalize", {})
    )
    return folder


@pytest.fixture
def encoder(registry: Registry, source: Path) -> Manifest:
    return publish_import(registry, source, "encoder", token_embeddings=True)


@pytest.fixture
def splade(registry: Registry, tmp_path: Path) -> Manifest:
    source = write_masked_bert(tmp_path / "splade")
    return publish_import(registry, source, "splade", task=Task.SPARSE_EMBEDDING)


async def embed_all(client: httpx.AsyncClient, texts: list[str]) -> list[np.ndarray]:
    answer = await client.post("/embed_all", json={"inputs": texts}, headers=NO_CACHE)
    return [np.array(matrix) for matrix in answer.raise_for_status().json()]


# -- one vector for each token ------------------------------------------------------------------------


async def test_each_text_has_a_matrix_of_its_own_length(build: Build, encoder: Manifest, source: Path) -> None:
    reference = NumpyReference(open_checkpoint(source), Task.EMBEDDING, 64, token_embeddings=True)
    expected = reference.answer(TEXTS)[TEXT_TOKENS]
    async with client_of(build(encoder)) as client:
        found = await embed_all(client, TEXTS)
        tokens = (await client.post("/tokenize", json={"inputs": TEXTS})).json()
    assert [matrix.shape for matrix in found] == [(len(row), HIDDEN) for row in tokens]
    assert len({len(matrix) for matrix in found}) > 3
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=ROUNDING)


async def test_token_embeddings_are_those_of_the_library(build: Build, encoder: Manifest, source: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="the original to compare with")
    original = library.SentenceTransformer(str(source), device="cpu")
    expected = original.encode(TEXTS, output_value="token_embeddings", show_progress_bar=False)
    async with client_of(build(encoder)) as client:
        for ours, theirs in zip(await embed_all(client, TEXTS), expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=ROUNDING)


async def test_a_matrix_does_not_depend_on_its_neighbours(build: Build, encoder: Manifest) -> None:
    async with client_of(build(encoder)) as client:
        together = await embed_all(client, TEXTS)
        backwards = (await embed_all(client, TEXTS[::-1]))[::-1]
        for number, text in enumerate(TEXTS):
            (alone,) = await embed_all(client, [text])
            np.testing.assert_allclose(together[number], alone, atol=ROUNDING)
            np.testing.assert_allclose(backwards[number], alone, atol=ROUNDING)


async def test_what_is_kept_has_the_text_s_own_length(build: Build, encoder: Manifest) -> None:
    """Padding is cut before an answer is kept: asked again in other company, it has no trace of the first."""
    server = build(encoder, cache_bytes=1 << 20)
    inferencer = server.services.fleet.find("encoder")
    first = await inferencer.infer(TEXTS)
    await asyncio.sleep(0)
    column = list(first.names).index(TEXT_TOKENS)
    kept = await server.cache.get(inferencer.keys.of_texts("", TEXTS))
    for row, length in zip(kept, first.lengths, strict=True):
        assert row is not None
        assert row.answer[column].shape == (length, HIDDEN)
        assert row.answer[column].base is None, "a view would keep the whole batch alive"
    again = await inferencer.infer([TEXTS[2], "another text that is not kept"])
    assert again.timings.cached == 1
    np.testing.assert_array_equal(again.output(TEXT_TOKENS)[0], first.output(TEXT_TOKENS)[2])
    assert [len(matrix) for matrix in again.output(TEXT_TOKENS)] == again.lengths


async def test_token_embeddings_come_from_an_engine_in_a_process_of_its_own(
    build: Build, encoder: Manifest
) -> None:
    expected = await embed_all(client_of(build(encoder)), TEXTS)
    for ours, theirs in zip(
        await embed_all(client_of(build(encoder, engine_process=True)), TEXTS), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=ROUNDING)


async def test_the_other_routes_are_as_before(
    build: Build, encoder: Manifest, registry: Registry, source: Path
) -> None:
    plain = publish_import(registry, source, "plain")
    vectors = []
    for manifest in (encoder, plain):
        async with client_of(build(manifest)) as client:
            vectors.append((await client.post("/embed", json={"inputs": TEXTS})).json())
            metadata = (await client.get(f"/v2/models/{manifest.model}")).json()
            assert [output["name"] for output in metadata["outputs"]] == ["embedding"]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


async def test_the_version_that_can_is_found(
    build: Build, encoder: Manifest, registry: Registry, source: Path
) -> None:
    plain = publish_import(registry, source, "plain")
    async with client_of(build(plain, encoder)) as client:
        answer = await client.post("/embed_all", json={"inputs": "yes"})
        assert answer.headers["x-tremplin-version"] == "encoder@1-fp32"
        assert np.shape(answer.json())[0] == 1
        assert (await client.post("/embed", json={"inputs": "yes"})).headers["x-tremplin-version"] == plain.ref


async def test_a_classifier_can_be_trained_on_an_encoder_with_token_embeddings(
    registry: Registry, encoder: Manifest, tmp_path: Path
) -> None:
    from tremplin.optimize.head.attach import attach_head
    from tremplin.optimize.head.logistic import Logistic
    from tremplin.serve.engine import pad
    from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

    head = Logistic(np.ones((HIDDEN, 2), np.float32), np.zeros(2, np.float32))
    graph = tmp_path / "with-head.onnx"
    attach_head(registry.path(encoder, "model.onnx"), head, 1.0, ["a", "b"], graph)
    engine = OnnxRuntimeEngine(graph, threads=1)
    engine.load()
    assert engine.run(pad([[2, 3]]))["probabilities"].shape == (1, 2)


# -- one weight for each entry of the vocabulary ------------------------------------------------------


async def test_sparse_embeddings_hold_what_is_not_zero(build: Build, splade: Manifest, tmp_path: Path) -> None:
    reference = NumpyReference(open_checkpoint(tmp_path / "splade"), Task.SPARSE_EMBEDDING, 64)
    expected = reference.answer(TEXTS)["sparse_embedding"]
    async with client_of(build(splade)) as client:
        answer = (await client.post("/embed_sparse", json={"inputs": TEXTS})).json()
        alone = (await client.post("/embed_sparse", json={"inputs": TEXTS[0]}, headers=NO_CACHE)).json()
    for entries, weights in zip(answer, expected, strict=True):
        assert all(set(entry) == {"index", "value"} for entry in entries)
        indices = [entry["index"] for entry in entries]
        assert indices == np.flatnonzero(weights).tolist()
        np.testing.assert_allclose([entry["value"] for entry in entries], weights[indices], atol=ROUNDING)
        assert 0 < len(indices) < len(weights)
    assert [entry["index"] for entry in alone[0]] == [entry["index"] for entry in answer[0]]
    np.testing.assert_allclose(
        [entry["value"] for entry in alone[0]], [entry["value"] for entry in answer[0]], atol=ROUNDING
    )


async def test_v2_gives_the_weights_of_the_whole_vocabulary(build: Build, splade: Manifest) -> None:
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS[:2]}
    async with client_of(build(splade)) as client:
        (output,) = (await client.post("/v2/models/splade/infer", json={"inputs": [tensor]})).json()["outputs"]
        (described,) = (await client.get("/v2/models/splade")).json()["outputs"]
        entries = (await client.post("/embed_sparse", json={"inputs": TEXTS[:1]})).json()[0]
        assert (await client.get("/info")).json()["model_type"] == {"embedding": {"pooling": "splade"}}
    assert (output["name"], output["shape"]) == ("sparse_embedding", [2, splade.interface.vocab_size])
    assert described["shape"] == [-1, splade.interface.vocab_size]
    assert np.flatnonzero(output["data"][: splade.interface.vocab_size]).tolist() == [e["index"] for e in entries]


# -- what cannot be done ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "missing", "remedy"),
    [
        ("/embed_all", "No served model gives token embeddings.", "--token-embeddings"),
        ("/embed_sparse", "No served model gives sparse embeddings.", "--task sparse-embedding"),
    ],
)
async def test_tei_is_told_what_would_be_needed(
    tiny_client: httpx.AsyncClient, path: str, missing: str, remedy: str
) -> None:
    answer = await tiny_client.post(path, json={"inputs": "alpha"})
    problem = answer.json()
    assert (answer.status_code, problem["error_type"]) == (424, "Backend")
    assert problem["error"].startswith(missing)
    assert remedy in problem["error"]
    assert "Served: tiny (embedding), tiny-classifier (classification)." in problem["error"]


async def test_a_splade_model_gives_no_token_embeddings(build: Build, splade: Manifest) -> None:
    async with client_of(build(splade)) as client:
        answer = await client.post("/embed_all", json={"inputs": "yes"})
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")


@pytest.mark.parametrize("path", ["/embed_all", "/embed_sparse"])
async def test_inputs_are_checked(build: Build, encoder: Manifest, splade: Manifest, path: str) -> None:
    async with client_of(build(encoder, splade, max_rows_per_request=4)) as client:
        for body, status in (
            ({"inputs": []}, 400),
            ({"inputs": ["yes", ""]}, 400),
            ({"inputs": LONG}, 422),
            ({"inputs": LONG, "truncate": None}, 422),
            ({"inputs": "yes", "prompt_name": "query"}, 422),
            ({"inputs": ["yes"] * 5}, 413),
            ({}, 422),
            ({"inputs": LONG, "truncate": True}, 200),
            ({"inputs": "yes", "truncation_direction": "right"}, 200),
        ):
            assert (await client.post(path, json=body)).status_code == status, body
