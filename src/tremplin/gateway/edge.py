"""The edge: the first and last thing that touches a request.

One plain ASGI callable gives the request its id, checks the key, bounds the body, finds hot routes by a look-up,
hands the rest to the framework, turns errors into problems, counts and logs. A stack of middlewares would do
the same at 15 us each; the budget around the engine is about 120 us.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tremplin.errors import BodyTooLarge, InvalidKey, MissingKey, NotReady, TremplinError
from tremplin.gateway.bodies import Reply
from tremplin.gateway.endpoint import Endpoint
from tremplin.gateway.problems import Dialect, problem_response
from tremplin.gateway.state import ServerState
from tremplin.monitor.logs import AccessLog
from tremplin.monitor.metrics import Metrics

# An id is the process's random half and a number: unique as a random one, without a system call each.
PROCESS_ID = secrets.token_hex(4)
REQUEST_NUMBERS = itertools.count()
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

# Read without a key beside the endpoints that say so: the way to the console, and the API document. The console
# has a session of its own.
PUBLIC_PATHS = frozenset({"/", "/openapi.json", "/favicon.ico"})
CONSOLE = "/console"

log = structlog.get_logger()


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    request_id: str
    route: str
    dialect: Dialect
    started: float = field(default_factory=time.perf_counter)
    status: int = 0


class Edge:
    """Wraps the application."""

    def __init__(
        self,
        app: ASGIApp,
        endpoints: tuple[Endpoint, ...],
        *,
        state: ServerState,
        metrics: Metrics,
        access_log: AccessLog,
        check_key: Callable[[str], bool] | None,
        max_body_bytes: int,
    ) -> None:
        self._app = app
        self._hot: Mapping[tuple[str, str], Endpoint] = {
            (endpoint.method, endpoint.path): endpoint for endpoint in endpoints if endpoint.hot is not None
        }
        self._public = PUBLIC_PATHS | {endpoint.path for endpoint in endpoints if endpoint.public}
        self._state = state
        self._metrics = metrics
        self._access_log = access_log
        self._check_key = check_key
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path = scope["path"]
        endpoint = self._hot.get((scope["method"], path))
        dialect = endpoint.dialect if endpoint else dialect_of(path)
        exchange = Exchange(_request_id(headers), path if endpoint else "", dialect)
        self._state.in_flight += 1
        try:
            self._check(scope["method"], path, headers)
            if endpoint is not None and endpoint.hot is not None:
                reply = await endpoint.hot(await _body(receive, self._max_body_bytes))
                await self._send_reply(reply, exchange, send)
            else:
                scope["tremplin.request_id"] = exchange.request_id
                receive = _bounded(receive, self._max_body_bytes)
                await self._app(scope, receive, self._answering(exchange, send))
        except ClientDisconnect:  # gone while sending: there is nobody to answer
            exchange.status = 499
        except Exception as error:  # every failure becomes a problem; none reaches the server
            if not isinstance(error, TremplinError):
                log.exception("unexpected error", request_id=exchange.request_id, error=error)
            if exchange.status == 0:
                response = problem_response(
                    error,
                    dialect=dialect,
                    request_id=exchange.request_id,
                    rows_at=endpoint.rows_at if endpoint else "",
                )
                await response(scope, receive, self._answering(exchange, send))
        finally:
            self._state.in_flight -= 1
            self._account(exchange, scope)

    def _check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Refuse a request without a live key, with a body announced too large, or before the server is ready."""
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise _too_large(self._max_body_bytes)
        is_read = method in ("GET", "HEAD")  # GET / leads to the console, POST / is TEI's embed
        if path.startswith(CONSOLE) or (is_read and path in self._public):
            return
        if self._check_key is not None:
            self._check_caller(self._check_key, headers)
        if not self._state.is_started:
            raise NotReady("The server is starting; ask /readyz when it is ready.")

    def _check_caller(self, check_key: Callable[[str], bool], headers: dict[bytes, bytes]) -> None:
        key = _key(headers)
        if not key:
            raise MissingKey(
                "Send an API key as 'Authorization: Bearer tk_...' or 'X-API-Key: tk_...'. "
                "`tremplin keys create` makes one."
            )
        if not check_key(key):
            raise InvalidKey("The API key is unknown or revoked. `tremplin keys list` shows the live ones.")

    async def _send_reply(self, reply: Reply, exchange: Exchange, send: Send) -> None:
        exchange.status = 200
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-request-id", exchange.request_id.encode()),
            *reply.headers,
        ]
        if self._state.is_draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _answering(self, exchange: Exchange, send: Send) -> Send:
        request_id = exchange.request_id.encode()

        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"].append((b"x-request-id", request_id))
                if self._state.is_draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        return answering

    def _account(self, exchange: Exchange, scope: Scope) -> None:
        seconds = time.perf_counter() - exchange.started
        route = exchange.route or self._template(scope)
        status = exchange.status or 499
        self._metrics.request(route, status, seconds)
        self._access_log.request(exchange.request_id, scope["method"], route, status, seconds)

    def _template(self, scope: Scope) -> str:
        """The route's template; addresses nobody declared share one name, or labels would grow without bound."""
        if scope["path"].startswith(CONSOLE):
            return "/console"
        return str(scope.get("tremplin.route", "unknown"))


def dialect_of(path: str) -> Dialect:
    """Return whose clients call a path, so that even a 404 speaks their dialect."""
    if path.startswith("/v2"):
        return Dialect.V2
    if path.startswith(("/v1", CONSOLE)):
        return Dialect.OPENAI
    return Dialect.TEI


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the caller's id when it is harmless to log, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{PROCESS_ID}{next(REQUEST_NUMBERS):08x}"


def _key(headers: dict[bytes, bytes]) -> str:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip().decode("latin-1")
    return headers.get(b"x-api-key", b"").decode("latin-1")


async def _body(receive: Receive, limit: int) -> bytes:
    """Return a request's whole body; raises BodyTooLarge, or ClientDisconnect when the caller left."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _bounded(receive: Receive, limit: int) -> Receive:
    """Stop reading a body that is longer than it may be, announced or not."""
    read = 0

    async def bounded() -> Message:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > limit:
                raise _too_large(limit)
        return message

    return bounded


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit:,} bytes. Send it in parts.")
