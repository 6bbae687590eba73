"""Bringing what is served in line with what is declared, while callers ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import tiny_models
from tests.asgi_client import client_of
from tremplin.config import Settings
from tremplin.errors import EngineFailed, NotServable, UnknownModel, UnknownVersion
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.services import Service, read_services, write_services
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.wiring import Places, Server, build_server

PATIENCE_S = 20.0


@pytest.fixture
def versions(registry: Registry, tmp_path: Path) -> list[Manifest]:
    """Three versions of one encoder that answer differently: each word table is another."""
    found = []
    for number in (1, 2, 3):
        folder = tmp_path / f"v{number}"
        folder.mkdir()
        files = {
            MODEL_FILE: tiny_models.write_encoder(folder / MODEL_FILE, seed=number),
            TOKENIZER_FILE: tiny_models.write_tokenizer(folder / TOKENIZER_FILE),
        }
        manifest = registry.publish(tiny_models.manifest_of(version=f"{number}-fp32"), files)
        registry.record_speed(manifest, tiny_models.speed_on(tiny_models.read_machine()))
        found.append(manifest)
    return found


Started = Callable[..., "asynccontextmanager[Server]"]


@asynccontextmanager
async def serving(settings: Settings, registry: Registry, *manifests: Manifest) -> AsyncIterator[Server]:
    declared = [Service("embed", Task.EMBEDDING, manifest.ref) for manifest in manifests]
    write_services(Places(settings.data).services, declared)
    server = build_server(settings, registry)
    server.deployment.start(declared)
    await server.services.index_documents()
    server.state.is_started = True
    try:
        yield server
    finally:
        await asyncio.to_thread(server.deployment.stop)


async def vector(server: Server, text: str = "alpha") -> np.ndarray:  # type: ignore[type-arg]
    return (await server.services.embed([text])).value[0]


async def test_a_swap_under_load_fails_nobody_and_frees_the_old(
    tiny_settings: Settings, registry: Registry, versions: list[Manifest]
) -> None:
    async with serving(tiny_settings, registry, versions[0]) as server:
        answers: list[tuple[str, tuple[float, ...]]] = []
        is_over = False

        async def caller(number: int) -> None:
            turn = number
            while not is_over:
                turn += 1
                words = " ".join(tiny_models.WORDS[: 1 + turn % 5])
                answered = await server.services.embed([words, "alpha"])
                answers.append((answered.version, tuple(np.round(answered.value[1], 5))))
                await server.services.search("beta")
                await asyncio.sleep(0.01)  # the loading thread must get the interpreter

        callers = [asyncio.ensure_future(caller(number)) for number in range(20)]
        first = server.services.fleet.inferencers[0]
        for turn in range(12):
            await asyncio.sleep(0.02)
            await server.deployment.load("tiny", versions[(turn + 1) % 3].version)
        is_over = True
        await asyncio.gather(*callers)
        by_version: dict[str, set[tuple[float, ...]]] = {}
        for version, found in answers:
            by_version.setdefault(version, set()).add(found)
        assert set(by_version) == {manifest.ref for manifest in versions}
        assert all(len(found) == 1 for found in by_version.values()), "an answer under another version's name"
        assert len(set.union(*by_version.values())) == 3
        async with asyncio.timeout(PATIENCE_S):
            while first.engine.health():  # noqa: ASYNC110 (nothing tells when it is freed)
                await asyncio.sleep(0.01)
        assert len(server.services.fleet.inferencers) == 1
        assert server.services.index is not None
        assert server.services.index.inferencer is server.services.fleet.inferencers[0]


async def test_who_holds_the_old_version_is_answered_by_it(
    tiny_settings: Settings, registry: Registry, versions: list[Manifest]
) -> None:
    async with serving(tiny_settings, registry, versions[0]) as server:
        expected = await vector(server)
        old = server.services.fleet.find("tiny")
        await server.cache.drop(old.keys.version)
        asked = asyncio.ensure_future(old.infer(["alpha"]))
        await asyncio.sleep(0)
        await server.deployment.load("tiny", "2-fp32")
        np.testing.assert_array_equal((await asked).stacked("embedding")[0], expected)
        assert np.abs(await vector(server) - expected).max() > 0.01


async def test_what_cannot_be_loaded_changes_nothing(
    tiny_settings: Settings, registry: Registry, versions: list[Manifest], tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    files = {
        MODEL_FILE: tiny_models.write_encoder(bad / MODEL_FILE),
        TOKENIZER_FILE: tiny_models.write_tokenizer(bad / TOKENIZER_FILE),
    }
    broken = registry.publish(tiny_models.manifest_of(version="4-fp32", quality=tiny_models.BROKEN), files)
    (bad / MODEL_FILE).write_bytes(b"no graph")
    unreadable = registry.publish(tiny_models.manifest_of(version="5-fp32"), files)
    for manifest in (broken, unreadable):
        registry.record_speed(manifest, tiny_models.speed_on(tiny_models.read_machine()))
    async with serving(tiny_settings, registry, versions[0]) as server:
        before = await vector(server)
        for version, error in (("4-fp32", NotServable), ("5-fp32", EngineFailed), ("9-fp32", UnknownVersion)):
            with pytest.raises(error):
                await server.deployment.load("tiny", version)
        np.testing.assert_array_equal(await vector(server), before)
        assert [i.manifest.version for i in server.services.fleet.inferencers] == ["1-fp32"]
        assert read_services(Places(tiny_settings.data).services)[0].version == "tiny@1-fp32"


async def test_load_and_unload_are_written_down(
    tiny_settings: Settings, registry: Registry, versions: list[Manifest], tmp_path: Path
) -> None:
    classifier = tiny_models.publish(
        registry, tmp_path / "c", "tiny-classifier", interface=tiny_models.CLASSIFICATION
    )
    async with serving(tiny_settings, registry, versions[0]) as server:
        file = Places(tiny_settings.data).services
        await server.deployment.load("tiny-classifier")
        assert [service.version for service in read_services(file)] == ["tiny@1-fp32", classifier.ref]
        await server.deployment.load("tiny")  # the newest, in the place of the one that served
        assert [service.version for service in read_services(file)] == ["tiny@3-fp32", classifier.ref]
        assert [service.name for service in read_services(file)] == ["embed", "classification"]
        await server.deployment.unload("tiny")
        assert [service.version for service in read_services(file)] == [classifier.ref]
        with pytest.raises(UnknownModel):
            server.services.fleet.find("tiny")
        with pytest.raises(UnknownModel):
            await server.deployment.unload("tiny")


async def test_a_change_of_the_declared_services_is_followed(
    tiny_settings: Settings, registry: Registry, versions: list[Manifest]
) -> None:
    async with serving(tiny_settings, registry, versions[0]) as server:
        following = asyncio.ensure_future(server.deployment.follow())
        file = Places(tiny_settings.data).services
        (service,) = read_services(file)
        write_services(file, [replace(service, version="tiny@7-fp32")])  # there is none: logged, nothing changes
        await asyncio.sleep(0.7)
        assert server.services.fleet.inferencers[0].manifest.ref == "tiny@1-fp32"
        write_services(file, [replace(service, version=versions[1].ref)])
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while server.services.fleet.inferencers[0].manifest.ref != versions[1].ref:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        following.cancel()


async def test_operators_load_and_unload_over_v2(
    tiny_settings: Settings, registry: Registry, versions: list[Manifest]
) -> None:
    async with (
        serving(tiny_settings.model_copy(update={"auth": True}), registry, versions[0]) as server,
        client_of(server) as client,
    ):
        operator = {"authorization": f"Bearer {server.keys.create('ops', is_operator=True)}"}
        caller = {"authorization": f"Bearer {server.keys.create('app')}"}
        load = "/v2/repository/models/tiny/load"
        for path in (load, "/v2/repository/models/tiny/unload"):
            answer = await client.post(path, json={}, headers=caller)
            assert (answer.status_code, answer.json()["type"].split("#")[1]) == (403, "not-permitted")
        assert (await client.get("/debug/batches", headers=caller)).status_code == 403
        answer = await client.post(load, json={"parameters": {"version": "2-fp32"}}, headers=operator)
        assert (answer.status_code, answer.json()) == (200, {})
        index = (await client.post("/v2/repository/index", json={}, headers=caller)).json()
        assert {row["version"]: row["state"] for row in index} == {
            "1-fp32": "UNAVAILABLE", "2-fp32": "READY", "3-fp32": "UNAVAILABLE",
        }  # fmt: skip
        ready = (await client.post("/v2/repository/index", json={"ready": True}, headers=caller)).json()
        assert [row["version"] for row in ready] == ["2-fp32"]
        assert (await client.post(load.replace("tiny", "none"), json={}, headers=operator)).status_code == 404
        await client.post("/embed", json={"inputs": "alpha beta"}, headers=caller)
        batches = (await client.get("/debug/batches", headers=operator)).json()["batches"]
        # Others may hold the documents.
        ours = next(batch for batch in batches if batch["version"] == "tiny@2-fp32" and batch["rows"] == 1)
        assert set(ours) >= {"tokens", "padding_share", "release", "wait_ms", "compute_ms", "predicted_ms"}
        answer = await client.post("/v2/repository/models/tiny/unload", headers=operator)
        assert answer.status_code == 200
        assert (await client.post("/embed", json={"inputs": "alpha"}, headers=caller)).status_code == 404


async def test_readiness_says_what_is_wrong(
    tiny_settings: Settings, registry: Registry, versions: list[Manifest]
) -> None:
    async with serving(tiny_settings, registry, versions[0]) as server, client_of(server) as client:
        assert (await client.get("/readyz")).status_code == 200
        (inferencer,) = server.services.fleet.inferencers
        ticket = inferencer.admission.enter([16] * 3900)
        answer: httpx.Response = await client.get("/readyz")
        assert (answer.status_code, answer.json()["has_room"]) == (503, False)
        inferencer.admission.leave(ticket)
        inferencer.engine.current.close()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["engines"]) == (503, {"tiny@1-fp32": False})
