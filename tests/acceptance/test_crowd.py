"""Many callers at once: each gets its own answer, or is told at once when to come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from statistics import median

import httpx
import numpy as np
import openai

from tests.live_server import PATIENCE_S, LiveServer


async def test_a_crowd_on_all_routes_gets_its_own_answers(live_server: LiveServer) -> None:
    generator = random.Random(11)
    words = [
        "order",
        "parcel",
        "refund",
        "password",
        "invoice",
        "colis",
        "mot",
        "de",
        "passe",
        "facture",
        "late",
        "lost",
        "broken",
        "twice",
    ]
    texts = [" ".join(generator.choices(words, k=generator.choice((1, 3, 8, 40)))) + f" {i}" for i in range(40)]
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(
        base_url=live_server.base_url, headers=live_server.headers, timeout=PATIENCE_S, limits=limits
    ) as client:
        reference = np.array([(await client.post("/embed", json={"inputs": text})).json()[0] for text in texts])
        labels = [(await client.post("/predict", json={"inputs": text})).json()[0]["label"] for text in texts]

        async def ask(number: int) -> None:
            chosen = random.Random(number).sample(range(len(texts)), 1 + number % 4)
            sent = [texts[i] for i in chosen]
            if number % 3 == 0:
                answer = await client.post("/v1/classify", json={"inputs": sent})
                found = [result["scores"][0]["label"] for result in answer.json()["results"]]
                assert found == [labels[i] for i in chosen]
                return
            if number % 3 == 1:
                answer = await client.post("/v1/embeddings", json={"input": sent})
                vectors = np.array([item["embedding"] for item in answer.json()["data"]])
            else:
                tensor = {"name": "text", "shape": [len(sent)], "datatype": "BYTES", "data": sent}
                answer = await client.post("/v2/models/minilm/infer", json={"inputs": [tensor], "id": str(number)})
                assert answer.json()["id"] == str(number)
                vectors = np.array(answer.json()["outputs"][0]["data"]).reshape(len(sent), -1)
            assert np.argmax(vectors @ reference.T, axis=1).tolist() == chosen

        await asyncio.gather(*(ask(number) for number in range(360)))


async def test_a_full_server_says_so_at_once_and_recovers(server_on: Callable[..., LiveServer]) -> None:
    server = server_on("--threads", "1", TREMPLIN_MAX_QUEUE_TOKENS="600")
    long = "a long text about an order that never came " * 20
    async with httpx.AsyncClient(base_url=server.base_url, headers=server.headers, timeout=PATIENCE_S) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/embeddings", json={"input": f"{i} {long}"}) for i in range(60))
        )
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["type"].endswith("#overloaded")
                assert 0 < int(answer.headers["retry-after-ms"]) <= 1000 * int(answer.headers["retry-after"])
        # Refusals do not wait behind the work they were not admitted to.
        waits_s = {
            code: median(answer.elapsed.total_seconds() for answer in answers if answer.status_code == code)
            for code in (200, 429)
        }
        assert waits_s[429] < waits_s[200]
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/v1/embeddings", json={"input": "short"})).status_code == 200

    # The official client comes back by itself, when it was told to.
    async with openai.AsyncOpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.api_key, max_retries=8
    ) as client:
        vectors = await asyncio.gather(
            *(client.embeddings.create(model="minilm", input=f"{i} {long}") for i in range(12))
        )
    assert all(len(answer.data[0].embedding) == 384 for answer in vectors)
    assert server.stop() == 0
