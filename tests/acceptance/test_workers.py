"""A server of several processes, seen from outside: one port, one set of metrics, no request lost to a swap."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests import tiny_models
from tests.live_server import PATIENCE_S, LiveServer, start_server
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.services import Service, write_services
from tremplin.registry.store import Registry
from tremplin.registry.task import Task

Start = Callable[..., LiveServer]


@pytest.fixture
def versions(tmp_path: Path) -> list[Manifest]:
    """Two versions of a tiny encoder that answer differently; the first is declared."""
    data = tmp_path / "data"
    registry = Registry(data / "registry")
    found = []
    for number in (1, 2):
        folder = tmp_path / f"v{number}"
        folder.mkdir()
        files = {
            MODEL_FILE: tiny_models.write_encoder(folder / MODEL_FILE, seed=number),
            TOKENIZER_FILE: tiny_models.write_tokenizer(folder / TOKENIZER_FILE),
        }
        found.append(registry.publish(tiny_models.manifest_of(version=f"{number}-fp32"), files))
        registry.record_speed(found[-1], tiny_models.speed_on(tiny_models.read_machine()))
    write_services(data / "services.json", [Service("embed", Task.EMBEDDING, found[0].ref)])
    return found


@pytest.fixture
def start(versions: list[Manifest], tmp_path: Path) -> Iterator[Start]:
    started: list[LiveServer] = []

    def run(*arguments: str, **environment: str) -> LiveServer:
        quick = {"TREMPLIN_DRAIN_DELAY_S": "0.2"} | environment
        started.append(start_server(tmp_path / "data", *arguments, command="serve", **quick))
        return started[-1]

    yield run
    for server in started:
        for worker in _workers(server):
            worker.kill()
        server.process.kill()
        server.process.wait()


def _workers(server: LiveServer) -> list[psutil.Process]:
    try:
        children = psutil.Process(server.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if "tremplin.workers" in " ".join(child.cmdline())]


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_workers_share_a_port_and_answer_as_one(start: Start) -> None:
    server = start("--workers", "2", "--threads", "1")
    assert len(_workers(server)) == 2
    clients = [server.client() for _ in range(4)]
    for number in range(40):
        answer = clients[number % 4].post("/embed", json={"inputs": f"alpha {'beta ' * (number % 5)}"})
        assert answer.status_code == 200
    # Connections go to the workers in turn, so each has answered; whoever is asked tells for both.
    open_to = Counter(
        worker.pid
        for worker in _workers(server)
        for c in worker.net_connections("tcp")
        if c.status == "ESTABLISHED"
    )
    assert list(open_to.values()) == [2, 2]
    for client in clients:
        text = client.get("/metrics").text
        counted = re.search(r'tremplin_requests_total{code="200",route="/embed"} (\d+)', text)
        assert counted is not None
        assert float(counted.group(1)) == 40
        assert 'tremplin_build_info{version="0.1.0"} 1.0' in text
        rows = re.search(r'tremplin_batch_rows_sum{model="tiny",version="1-fp32"} ([\d.]+)', text)
        assert rows is not None
        batches = client.get("/debug/batches").json()["batches"]
        assert sum(batch["rows"] for batch in batches) == float(rows.group(1))
    for client in clients:
        client.close()
    assert server.stop() == 0
    assert _workers(server) == []


def test_a_worker_that_is_killed_is_replaced_and_the_other_serves_on(start: Start) -> None:
    server = start("--workers", "2", "--threads", "1")
    victim = _workers(server)[0]
    victim.kill()
    answers = []
    _wait(lambda: "worker ended" in server.logs(), "the parent noticed nothing")
    for _ in range(10):  # a connection each: none is given to the worker that is gone
        with server.client() as client:
            answers.append(client.post("/embed", json={"inputs": "alpha"}).status_code)
    assert answers == [200] * 10
    _wait(lambda: len(_workers(server)) == 2, "no worker took its place")
    time.sleep(0.1)
    assert victim.pid not in [worker.pid for worker in _workers(server)]
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
    assert server.stop() == 0


def test_workers_end_with_their_parent(start: Start) -> None:
    server = start("--workers", "2", "--threads", "1")
    workers = _workers(server)
    server.process.kill()
    _wait(
        lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers), "left behind"
    )


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--engine-process",), ("--streams", "2")])
def test_versions_are_swapped_under_load_without_a_failed_request(
    start: Start, versions: list[Manifest], options: tuple[str, ...]
) -> None:
    server = start("--threads", "1", *options, TREMPLIN_CACHE_BYTES="0")
    headers = server.headers
    seen: Counter[str] = Counter()
    failures: list[str] = []
    vectors: dict[str, set[tuple[float, ...]]] = {}
    is_over = False

    async def caller(client: httpx.AsyncClient) -> None:
        while not is_over:
            answer = await client.post("/embed", json={"inputs": ["alpha beta"]}, headers=headers)
            if answer.status_code != 200:
                failures.append(answer.text)
                continue
            version = answer.headers["x-tremplin-version"]
            seen[version] += 1
            vectors.setdefault(version, set()).add(tuple(np.round(answer.json()[0], 4)))

    async def run() -> None:
        nonlocal is_over
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=PATIENCE_S, limits=limits) as client:
            callers = [asyncio.ensure_future(caller(client)) for _ in range(16)]
            for turn in range(4):
                await asyncio.sleep(0.4)
                body = {"parameters": {"version": versions[(turn + 1) % 2].version}}
                load = await client.post("/v2/repository/models/tiny/load", json=body, headers=headers)
                assert load.status_code == 200, load.text
            await asyncio.sleep(1.5)  # the other worker follows within half a second
            is_over = True
            await asyncio.gather(*callers)

    asyncio.run(run())
    assert failures == []
    assert set(seen) == {manifest.ref for manifest in versions}
    assert all(len(found) == 1 for found in vectors.values()), "an answer under another version's name"
    assert server.stop() == 0


def test_a_crash_of_the_engine_costs_no_other_request(start: Start) -> None:
    server = start("--threads", "1", "--engine-process", TREMPLIN_CACHE_BYTES="0")

    def engines() -> list[psutil.Process]:
        children = psutil.Process(server.process.pid).children(recursive=True)
        return [child for child in children if "engines.process" in " ".join(child.cmdline())]

    async def run() -> Counter[int]:
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=PATIENCE_S, limits=limits) as client:

            async def ask(number: int) -> int:
                await asyncio.sleep(0.01 * number)
                body = {"inputs": ["alpha " * (1 + number % 9)]}
                return (await client.post("/embed", json=body, headers=server.headers)).status_code

            asked = [asyncio.ensure_future(ask(number)) for number in range(300)]
            for _ in range(2):
                await asyncio.sleep(1.2)
                os.kill(engines()[0].pid, signal.SIGSEGV)
            return Counter(await asyncio.gather(*asked))

    assert asyncio.run(run()) == {200: 300}
    assert "engines" in httpx.get(f"{server.base_url}/readyz").json()
    assert server.stop() == 0


def test_a_worker_that_cannot_start_ends_the_server_with_a_reason(start: Start, tmp_path: Path) -> None:
    objects = [path for path in (tmp_path / "data" / "registry" / "objects").rglob("*") if path.is_file()]
    for path in objects:
        path.write_bytes(b"damaged")
    with pytest.raises(AssertionError):
        start("--workers", "2", "--threads", "1")
