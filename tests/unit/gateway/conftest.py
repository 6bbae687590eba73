"""A server over versions of the test's own choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tremplin.config import Settings
from tremplin.registry.manifest import Manifest
from tremplin.registry.services import Service
from tremplin.registry.store import Registry
from tremplin.wiring import Server, build_server


@pytest.fixture
def build(registry: Registry, tiny_settings: Settings) -> Iterator[Callable[..., Server]]:
    """Return a function that serves some versions, each for its task; its options replace settings."""
    built: list[Server] = []

    def make(*manifests: Manifest, **changes: Any) -> Server:
        server = build_server(tiny_settings.model_copy(update=changes), registry, follows_file=False)
        built.append(server)
        server.deployment.start([Service(m.model, m.interface.task, m.ref) for m in manifests])
        server.state.is_started = True
        return server

    yield make
    for server in built:
        server.deployment.stop()
