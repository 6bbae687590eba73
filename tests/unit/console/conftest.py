from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from console_standin import ORIGIN, OpenConsole, StandInServices, console_view, fill, signed_in
from starlette.applications import Starlette

from tremplin.console.router import console_routes
from tremplin.console.view import ConsoleView
from tremplin.registry.store import Registry


@pytest.fixture(scope="session")
def registry_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two models, shared: nothing here writes to it."""
    root = tmp_path_factory.mktemp("registry")
    fill(Registry(root), root)
    return root


@pytest.fixture
def view(registry_root: Path) -> ConsoleView:
    return console_view(registry_root)


@pytest.fixture
async def open_console(registry_root: Path, tmp_path: Path) -> AsyncIterator[OpenConsole]:
    """Return a browser-like client of a console; ``console_view``'s options can be given."""
    clients: list[httpx.AsyncClient] = []

    def opened(*, is_empty: bool = False, **options: object) -> httpx.AsyncClient:
        root = tmp_path if is_empty else registry_root
        app = Starlette(routes=console_routes(console_view(root, is_empty=is_empty, **options)))  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=app)
        client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        clients.append(client)
        return client

    yield opened
    for client in clients:
        await client.aclose()


@pytest.fixture
async def console(open_console: OpenConsole) -> httpx.AsyncClient:
    return await signed_in(open_console())


@pytest.fixture
def services() -> StandInServices:
    return StandInServices()
