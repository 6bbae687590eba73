"""HTTP on a connection: uvicorn's protocol, with a bound on headers, and a short way for hot routes.

httptools keeps what it has read of a header until the header ends, so without a bound one caller could fill
the memory before any code of ours sees his request.

A request to a hot route costs the event loop about 60 us through ASGI: a scope, a queue of messages and a writer
that reads headers one by one. Such a request has one body and one answer, so it goes from the parser to the edge
and from there to the socket. Everything else, pipelined requests among it, takes uvicorn's way.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tremplin.errors import BadInput, TremplinError
from tremplin.gateway.edge import Edge, Exchange, Headers, HotAnswer, HotRoute, too_large
from tremplin.gateway.problems import HEADERS_TOO_LARGE, NOT_HTTP, Dialect, Kind, problem_of
from tremplin.store.keys import ApiKey

MAX_HEAD_BYTES = 64 * 1024

# What a refused caller still sends is read and dropped for so long: closing at once would reset the connection
# before he has read why.
LINGER_S = 2.0

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _NoEvent:
    """Stands for the event on which ASGI applications wait for a message."""

    def set(self) -> None:
        """Nobody waits."""


class HotCycle:
    """One hot request on a connection; has the members of uvicorn's cycle that its protocol looks at."""

    def __init__(
        self,
        protocol: BoundedProtocol,
        route: HotRoute,
        exchange: Exchange,
        headers: Headers,
        *,
        keep_alive: bool,
    ) -> None:
        self._protocol = protocol
        self._route = route
        self.exchange = exchange
        self._headers = headers
        self._key: ApiKey | None = None
        self._task: asyncio.Task[None] | None = None
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.message_event = _NoEvent()

    @property
    def disconnected(self) -> bool:
        """Whether the caller is gone."""
        return self._protocol.transport.is_closing()

    @disconnected.setter
    def disconnected(self, is_gone: bool) -> None:
        # Set by the protocol when the connection is lost: what is still queued for it is dropped.
        if is_gone:
            if self._task is not None:
                self._task.cancel()
            elif not self.response_complete:
                self._finish()

    def check(self, edge: Edge) -> None:
        """Refuse the request before its body is read, when that can be told already."""
        try:
            self._key = edge.check(self.exchange, self._route.endpoint.path, self._headers)
        except TremplinError as error:
            self.refuse(edge, error)

    def refuse(self, edge: Edge, error: Exception, *, close: bool = False) -> None:
        """Answer with a problem; ``close`` when the rest of the body must not be read."""
        if close:
            self.keep_alive = False
        self._write(edge.refuse(self.exchange, self._route, error))

    def start(self, edge: Edge) -> None:
        """Answer the request, its body being whole."""
        self._task = self._protocol.loop.create_task(self._answer(edge))
        self._protocol.tasks.add(self._task)
        self._task.add_done_callback(self._protocol.tasks.discard)

    async def _answer(self, edge: Edge) -> None:
        try:
            answer = await edge.answer(self.exchange, self._route, self._headers, self._key, bytes(self.body))
        except asyncio.CancelledError:
            if self.disconnected:  # the caller is gone: nobody is left to answer
                self._finish()
                return
            raise
        self._write(answer)

    def _write(self, answer: HotAnswer) -> None:
        transport = self._protocol.transport
        if transport.is_closing():
            self.exchange.status = 0  # counted as 499: it was never read
            self._finish()
            return
        head = [STATUS_LINE[answer.status], *_lines(self._protocol.server_state.default_headers)]
        head += _lines(answer.headers)
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        head.append(answer.body)
        transport.write(b"".join(head))
        self._finish()
        if not self.keep_alive:
            self._protocol.close_politely(has_read_all=not self.more_body)

    def _finish(self) -> None:
        self.response_complete = True
        self._protocol.end_hot(self)


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a request whose line and headers are larger than MAX_HEAD_BYTES."""

    _head_bytes = 0
    """Read since the last request ended."""
    _is_in_head = True
    _is_refused = False

    # -- what uvicorn's protocol calls -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what came in."""
        if self._is_refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES and not self._is_refused:
            message = f"The request's headers are larger than {MAX_HEAD_BYTES:,} bytes. Send fewer."
            self._refuse(message, HEADERS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Expect a request; what ASGI needs is made only for requests that take that way."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._is_in_head = False
        cycle = self._hot_cycle()
        if cycle is None:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url = url
            self.headers.extend(headers)
            self.expect_100_continue = expects
            super().on_headers_complete()
            return
        self.cycle = cycle  # type: ignore[assignment]
        cycle.check(self._edge)
        if self.expect_100_continue and not cycle.response_complete:
            self.transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Collect a part of the body."""
        cycle = self.cycle
        if not isinstance(cycle, HotCycle):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > self._edge.max_body_bytes:
                cycle.refuse(self._edge, too_large(self._edge.max_body_bytes), close=True)

    def on_message_complete(self) -> None:
        """Answer a hot request, and expect the next one."""
        self._is_in_head, self._head_bytes = True, 0
        cycle = self.cycle
        if not isinstance(cycle, HotCycle):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.more_body = False
            cycle.start(self._edge)

    def send_400_response(self, msg: str) -> None:
        """Refuse what httptools cannot parse; ``msg`` is uvicorn's sentence."""
        self._refuse(f"{msg} Check what stands between the client and this server.", NOT_HTTP)

    # -- what hot requests call ------------------------------------------------------------------------

    def end_hot(self, cycle: HotCycle) -> None:
        """Count a hot request out and let the connection go on."""
        self._edge.end(cycle.exchange)
        if cycle.keep_alive:
            self.on_response_complete()

    def close_politely(self, *, has_read_all: bool) -> None:
        """Close once the answer is written; what the caller still sends is read and dropped for a while."""
        if has_read_all:
            self.transport.close()
            return
        self._is_refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    @property
    def _edge(self) -> Edge:
        assert isinstance(self.app, Edge)  # uvicorn was given the edge and wraps it in nothing
        return self.app

    def _hot_cycle(self) -> HotCycle | None:
        """Return the cycle of a request to a hot route; None for what must take uvicorn's way."""
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined: uvicorn keeps the order of the answers
        path, _, _ = self.url.partition(b"?")
        if b"%" in path or self.parser.should_upgrade():
            return None
        method, where = self.parser.get_method().decode("ascii"), path.decode("latin-1")
        route = self._edge.hot_route(method, where)
        if route is None:
            return None
        headers = dict(self.headers)
        exchange = self._edge.begin(method, where, headers, route)
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        return HotCycle(self, route, exchange, headers, keep_alive=keep_alive)

    def _refuse(self, detail: str, kind: Kind) -> None:
        self._is_refused = True
        cycle = self.cycle
        if isinstance(cycle, HotCycle) and cycle.response_complete and cycle.more_body:
            self.close_politely(has_read_all=False)  # refused before its body was read: that was the answer
            return
        if cycle is not None and not cycle.response_complete:  # its body was the part refused
            cycle.disconnected = True
            cycle.message_event.set()
        request_id = secrets.token_hex(8)
        problem = problem_of(BadInput(detail), dialect=Dialect.OPENAI, request_id=request_id, kind=kind)
        headers = [*problem.headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        head = STATUS_LINE[kind.status] + b"".join(_lines(headers))
        self.transport.write(head + b"\r\n" + problem.body)
        self.close_politely(has_read_all=False)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [b"%b: %b\r\n" % header for header in headers]
