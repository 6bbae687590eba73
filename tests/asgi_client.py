"""Calling a server in this process, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from tremplin.wiring import Server


def client_of(server: Server, **headers: str) -> httpx.AsyncClient:
    """Return a client that hands requests to the application itself."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(server.app), base_url="http://tremplin.test", headers=headers
    )
