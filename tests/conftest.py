"""What all tests share: no network, the real data, tiny models, and the real server."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests import tiny_models
from tests.asgi_client import client_of
from tests.live_server import LiveServer, start_server
from tremplin.config import Settings
from tremplin.machine import read_machine
from tremplin.optimize import bundled
from tremplin.registry.files import locked
from tremplin.registry.services import Service
from tremplin.registry.store import Registry
from tremplin.registry.task import Task

if TYPE_CHECKING:
    from tremplin.wiring import Server

# Tests run side by side, and threads that wait for others by spinning take the core those others need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


# -- no network --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test that calls anything but this machine."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_here(address[0]):
            pytest.fail(f"unexpected network call: {address[0]}")
        connect(self, address)

    def look_up_here(host: Any, *rest: Any, **options: Any) -> Any:
        if host is not None and not _is_here(host):
            pytest.fail(f"unexpected look-up of a name: {host}")
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)


def _is_here(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    try:
        return name in ("", "localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


# -- data --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of public data sets that lies beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the public data sets are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def published_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder made by the first run, once for all processes of this test session.

    Others copy it (``copy_data``); nobody writes in it. PUBLISHED_DATA names one made before, which saves half a
    minute while a test is being written.
    """
    if given := os.environ.get("PUBLISHED_DATA"):
        return Path(given)
    if not bundled.is_installed():
        pytest.skip(f"the bundled model is not installed: {bundled.INSTALL}")
    from tremplin.bootstrap import first_run
    from tremplin.wiring import Places

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / "published", base / "published.done"
    with locked(base / "published.lock"):
        if not done.exists():
            machine = read_machine()
            places = Places(folder)
            first_run(Registry(places.registry), places.services, machine, machine.cores, lambda step, share: None)
            done.touch()
    return folder


def copy_data(source: Path, target: Path) -> Path:
    """Copy a data folder; artefacts never change once written, so they are linked."""
    return shutil.copytree(
        source,
        target,
        copy_function=lambda a, b: os.link(a, b) if "objects" in Path(a).parts else shutil.copy2(a, b),
    )


# -- tiny models -------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return an empty registry, in the data folder of ``tiny_settings``."""
    return Registry(tmp_path / "data" / "registry")


@pytest.fixture
def tiny_settings(tmp_path: Path) -> Settings:
    """Return settings over the folder of ``registry``, one engine thread."""
    return Settings(data=tmp_path / "data", threads=1, auth=False, engine="onnxruntime")


TinyServer = Callable[..., "Server"]


@pytest.fixture
def tiny_server(registry: Registry, tiny_settings: Settings, tmp_path: Path) -> Iterator[TinyServer]:
    """Return a function that builds the server over a tiny encoder and a tiny classifier, engines started.

    Its arguments replace settings. What it returns has not said "started": tests decide that.
    """
    from tremplin.wiring import build_server

    encoder = tiny_models.publish(registry, tmp_path / "encoder")
    classifier = tiny_models.publish(
        registry, tmp_path / "classifier", "tiny-classifier", interface=tiny_models.CLASSIFICATION
    )
    declared = [
        Service("embed", Task.EMBEDDING, encoder.ref),
        Service("classify", Task.CLASSIFICATION, classifier.ref),
    ]
    built: list[Server] = []

    def build(**changes: Any) -> Server:
        server = build_server(tiny_settings.model_copy(update=changes), registry, follows_file=False)
        server.deployment.start(declared)
        server.state.is_started = True
        built.append(server)
        return server

    yield build
    for server in built:
        server.deployment.stop()


@pytest.fixture
async def tiny_client(tiny_server: TinyServer) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the tiny server, in this process and without a key; documents are indexed."""
    server = tiny_server()
    await server.services.index_documents()
    async with client_of(server) as client:
        yield client


# -- the real server ---------------------------------------------------------------------------------


@pytest.fixture
def server_on(published_data: Path, tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Return a function that starts a server of the test's own on a copy of the published data."""
    started: list[LiveServer] = []

    def start(*arguments: str, **environment: str) -> LiveServer:
        data = tmp_path / f"data-{len(started)}"
        copy_data(published_data, data)
        started.append(start_server(data, "--no-browser", *arguments, **environment))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def live_server(published_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server that many tests share; at the end it must stop by itself, with exit code 0."""
    data = copy_data(published_data, tmp_path_factory.mktemp("live") / "data")
    server = start_server(data, "--no-browser", TREMPLIN_DRAIN_DELAY_S="0.1")
    try:
        yield server
        assert server.stop() == 0, server.logs()[-4000:]
    finally:
        server.process.kill()
        server.process.wait()
