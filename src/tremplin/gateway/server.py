"""Running the application: the socket, the signals, the drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager

import structlog
import uvicorn
from starlette.types import ASGIApp

from tremplin.errors import StartFailed
from tremplin.gateway.protocol import BoundedProtocol
from tremplin.gateway.state import ServerState

log = structlog.get_logger()

GRACE_S = 60
BACKLOG = 2048


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises StartFailed when the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
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


ProtocolFactory = Callable[[], asyncio.Protocol]

# Where connections come from: entered with what makes a protocol for each, and what to call when none will come.
Connections = Callable[[ProtocolFactory, Callable[[], None]], AbstractAsyncContextManager[None]]


def listening(listener: socket.socket) -> Connections:
    """Connections that a listening socket accepts."""

    @contextlib.asynccontextmanager
    async def accepting(make_protocol: ProtocolFactory, stop: Callable[[], None]) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make_protocol, sock=listener, backlog=BACKLOG)
        try:
            yield
        finally:
            server.close()

    return accepting


def handed_over(control: socket.socket) -> Connections:
    """Connections that a parent has accepted: one byte on ``control`` with one descriptor each.

    When standard input ends the parent is gone, and so must we.
    """

    @contextlib.asynccontextmanager
    async def receiving(make_protocol: ProtocolFactory, stop: Callable[[], None]) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        adopting: set[asyncio.Task[object]] = set()
        control.setblocking(False)

        def receive() -> None:
            try:
                sent, descriptors, *_ = socket.recv_fds(control, 1, 1)
            except BlockingIOError:
                return
            if not sent:
                loop.remove_reader(control)
                return
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                connection.setblocking(False)
                task = loop.create_task(loop.connect_accepted_socket(make_protocol, connection))
                adopting.add(task)
                task.add_done_callback(adopting.discard)

        def parent_gone() -> None:
            if not os.read(0, 64):
                loop.remove_reader(0)
                stop()

        loop.add_reader(control, receive)
        loop.add_reader(0, parent_gone)
        try:
            yield
        finally:
            loop.remove_reader(control)
            loop.remove_reader(0)

    return receiving


class _Server(uvicorn.Server):
    """uvicorn, with signals and sockets left to us: a stop begins by telling the load balancer, not by closing."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        stop: Callable[[], None],
        on_started: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._stop = stop
        self._on_started = on_started
        self._open = contextlib.AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections, then say so."""
        await super().startup([])
        try:
            await self._open.enter_async_context(self._connections(self._make_protocol, self._stop))
            await self._on_started()
        except BaseException:
            await self.shutdown()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections and drain those there are."""
        await self._open.aclose()
        await super().shutdown([])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``serve_app``."""
        yield

    def _make_protocol(self) -> asyncio.Protocol:
        return BoundedProtocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )


async def serve_app(
    app: ASGIApp,
    connections: Connections,
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

    server = _Server(config, connections, stop, on_started)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve()
