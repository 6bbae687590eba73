"""The server with gRPC, shared by its tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import copy_data
from tests.live_server import LiveServer, start_server


@pytest.fixture(scope="session")
def grpc_server(published_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server that answers over gRPC too and keeps no answers; at the end it must stop by itself."""
    data = copy_data(published_data, tmp_path_factory.mktemp("grpc") / "data")
    options = ("--no-browser", "--grpc-port", "0", "--engine", "onnxruntime")
    server = start_server(data, *options, TREMPLIN_DRAIN_DELAY_S="0.1", TREMPLIN_CACHE_BYTES="0")
    try:
        yield server
        assert server.stop() == 0, server.logs()[-4000:]
        events = [json.loads(line)["event"] for line in server.logs().splitlines()]  # gRPC's own lines would fail
        assert not {"unexpected error", "library message"} & set(events)
    finally:
        server.process.kill()
        server.process.wait()
