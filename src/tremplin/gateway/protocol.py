"""HTTP on a connection: uvicorn's protocol, with a bound on headers and refusals in our form.

httptools keeps what it has read of a header until the header ends, so without a bound one caller could fill
the memory before any code of ours sees his request.
"""

from __future__ import annotations

import secrets

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tremplin.errors import BadInput
from tremplin.gateway.problems import HEADERS_TOO_LARGE, NOT_HTTP, Dialect, Kind, problem_response

MAX_HEAD_BYTES = 64 * 1024

# What a refused caller still sends is read and dropped for so long: closing at once would reset the connection
# before he has read why.
LINGER_S = 2.0


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a request whose line and headers are larger than MAX_HEAD_BYTES."""

    _head_bytes = 0
    """Read since the last request ended."""
    _is_in_head = True
    _is_refused = False

    def data_received(self, data: bytes) -> None:
        """Parse what came in."""
        if self._is_refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES and not self._is_refused:
            too_large = f"The request's headers are larger than {MAX_HEAD_BYTES:,} bytes. Send fewer."
            self._refuse(too_large, HEADERS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next request."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what httptools cannot parse; ``msg`` is uvicorn's sentence."""
        self._refuse(f"{msg} Check what stands between the client and this server.", NOT_HTTP)

    def _refuse(self, detail: str, kind: Kind) -> None:
        self._is_refused = True
        if self.cycle is not None and not self.cycle.response_complete:  # its body was the part refused
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        request_id = secrets.token_hex(8)
        response = problem_response(BadInput(detail), dialect=Dialect.OPENAI, request_id=request_id, kind=kind)
        headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[kind.status] + head + b"\r\n" + bytes(response.body))
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
