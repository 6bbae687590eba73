"""Running the application: the socket, the signals, the drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import structlog
import uvicorn
from starlette.types import ASGIApp

from tremplin.errors import StartFailed
from tremplin.gateway.protocol import BoundedProtocol
from tremplin.gateway.state import ServerState

log = structlog.get_logger()

GRACE_S = 60


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises StartFailed when the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartFailed(
                f"Port {port} on {host} is in use. Stop the program that holds it, or choose another: "
                f"--port {port + 1 if port < 65535 else 8000}, or --port 0 for any free one."
            ) from None
        raise StartFailed(f"Cannot listen on {host}:{port}: {error.strerror}. Check --host and --port.") from None
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us: a stop begins by telling the load balancer, not by closing."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        try:
            await self._on_started()
        except BaseException:
            await self.shutdown(sockets)
            raise

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``serve_app``."""
        yield


async def serve_app(
    app: ASGIApp,
    listener: socket.socket,
    state: ServerState,
    *,
    drain_delay_s: float,
    on_started: Callable[[], Awaitable[None]],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: /readyz says 503 at once, what is in flight is answered."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
    )
    server = _Server(config, on_started)
    loop = asyncio.get_running_loop()
    stops: list[asyncio.Task[None]] = []

    async def drain() -> None:
        state.is_draining = True
        log.info("draining", in_flight=state.in_flight)
        await asyncio.sleep(drain_delay_s)
        server.should_exit = True

    def stop() -> None:
        if stops:  # asked twice: do not wait
            server.should_exit = True
        else:
            stops.append(loop.create_task(drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve(sockets=[listener])
