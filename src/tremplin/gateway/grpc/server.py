"""The gRPC server: beside HTTP's in the same event loop, started and drained with it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from grpc import aio, method_handlers_generic_handler

from tremplin.errors import StartFailed
from tremplin.gateway.grpc.calls import Calls
from tremplin.gateway.grpc.messages import SERVICE
from tremplin.gateway.server import GRACE_S, Connections, ProtocolFactory


def beside(connections: Connections, calls: Calls, host: str, port: int, *, max_message_bytes: int) -> Connections:
    """Return connections that come with a gRPC server on a port; they are there while it is.

    When no more connections are wanted, what is in flight over gRPC is answered before HTTP is told to finish, and
    for GRACE_S at most; HTTP goes on meanwhile on the connections it has.
    """

    @contextlib.asynccontextmanager
    async def both(make_protocol: ProtocolFactory, stop: Callable[[], None]) -> AsyncIterator[None]:
        async with _serving(calls, host, port, max_message_bytes), connections(make_protocol, stop):
            yield

    return both


@contextlib.asynccontextmanager
async def _serving(calls: Calls, host: str, port: int, max_message_bytes: int) -> AsyncIterator[None]:
    server = aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.so_reuseport", 1),  # the port is kept by a reservation, and shared by workers
        ]
    )
    server.add_generic_rpc_handlers((method_handlers_generic_handler(SERVICE, calls.handlers()),))
    address = _address(host)
    try:
        server.add_insecure_port(f"{address}:{port}")
    except RuntimeError:  # gRPC's reason is for its own log
        raise StartFailed(f"gRPC cannot listen on {address}:{port}. Check --host and --grpc-port.") from None
    await server.start()
    try:
        yield
    finally:
        calls.end_streams()
        await server.stop(GRACE_S)


def _address(host: str) -> str:
    """Return a host as gRPC writes it; a name is looked up as it is for HTTP, which listens on one address."""
    if ":" in host:
        return f"[{host}]"
    return socket.gethostbyname(host)
