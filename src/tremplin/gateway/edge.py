"""The edge: the first and last thing that touches a request.

One plain ASGI callable gives the request its id, checks the key, bounds the body, finds hot routes by a look-up,
hands the rest to the framework, turns errors into problems, counts and logs. A stack of middlewares would do
the same at 15 us each; the budget around the engine is about 120 us. Hot routes do without ASGI as well when they
come over a socket: ``protocol.py`` calls ``begin``, ``answer`` and ``end`` itself.
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

from tremplin.errors import BodyTooLarge, InvalidKey, MissingKey, NotPermitted, NotReady, TremplinError
from tremplin.gateway.calls import call_of
from tremplin.gateway.endpoint import Endpoint, HotRequest
from tremplin.gateway.problems import Dialect, problem_of
from tremplin.gateway.state import ServerState
from tremplin.monitor.logs import AccessLog
from tremplin.monitor.metrics import Metrics
from tremplin.store.keys import ApiKey

# An id is the process's random half and a number: unique as a random one, without a system call each.
PROCESS_ID = secrets.token_hex(4)
REQUEST_NUMBERS = itertools.count()
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

# Read without a key beside the endpoints that say so: the way to the console, and the API document. The console
# has a session of its own.
PUBLIC_PATHS = frozenset({"/", "/openapi.json", "/favicon.ico"})
CONSOLE = "/console"

Headers = Mapping[bytes, bytes]
RawHeaders = list[tuple[bytes, bytes]]

log = structlog.get_logger()


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    request_id: str
    route: str
    dialect: Dialect
    method: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0


@dataclass(frozen=True, slots=True)
class HotRoute:
    """A hot endpoint and the parameters of the path that led to it."""

    endpoint: Endpoint
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HotAnswer:
    """An answer as it goes over the wire."""

    status: int
    headers: RawHeaders
    body: bytes


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
        find_key: Callable[[str], ApiKey | None] | None,
        max_body_bytes: int,
    ) -> None:
        self._app = app
        hot = [endpoint for endpoint in endpoints if endpoint.hot is not None]
        self._hot = {(e.method, e.path): HotRoute(e, {}) for e in hot if "{" not in e.path}
        self._hot_patterns = [(e, _pattern(e.path)) for e in hot if "{" in e.path]
        self._public = PUBLIC_PATHS | {endpoint.path for endpoint in endpoints if endpoint.public}
        self._operators = {endpoint.path for endpoint in endpoints if endpoint.operators}
        self._operator_patterns = [_pattern(path) for path in self._operators if "{" in path]
        self._state = state
        self._metrics = metrics
        self._access_log = access_log
        self._find_key = find_key
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request over ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path = scope["path"]
        route = self.hot_route(scope["method"], path)
        exchange = self.begin(scope["method"], path, headers, route)
        try:
            key = self.check(exchange, path, headers)
            if route is not None:
                body = await _body(receive, self.max_body_bytes)
                answer = await self.answer(exchange, route, headers, key, body)
                await _send_hot(answer, send)
                return
            scope["tremplin.request_id"] = exchange.request_id
            receive = _bounded(receive, self.max_body_bytes)
            await self._app(scope, receive, self._answering(exchange, send))
        except ClientDisconnect:  # gone while sending: there is nobody to answer
            exchange.status = 499
        except Exception as error:  # every failure becomes a problem; none reaches the server
            if exchange.status == 0:
                await _send_hot(self.refuse(exchange, route, error), send)
            else:
                self._log_unexpected(exchange, error)
        finally:
            self.end(exchange, scope)

    # -- the parts, also called by the protocol for hot routes -------------------------------------------

    def hot_route(self, method: str, path: str) -> HotRoute | None:
        """Return the hot endpoint at an address, or None."""
        route = self._hot.get((method, path))
        if route is None and path.startswith("/v2/models/"):
            for endpoint, pattern in self._hot_patterns:
                if method == endpoint.method and (match := pattern.fullmatch(path)) is not None:
                    return HotRoute(endpoint, match.groupdict())
        return route

    def begin(self, method: str, path: str, headers: Headers, route: HotRoute | None) -> Exchange:
        """Count a request in and give it its id."""
        self._state.in_flight += 1
        if route is None:
            return Exchange(_request_id(headers), "", dialect_of(path), method)
        return Exchange(_request_id(headers), route.endpoint.path, route.endpoint.dialect, method)

    def check(self, exchange: Exchange, path: str, headers: Headers) -> ApiKey | None:
        """Return the key a request came with, None when none is asked for.

        Refuses one without a live key, without the right to operate where that is asked for, with a body
        announced too large, or before the server is ready.
        """
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            raise too_large(self.max_body_bytes)
        is_read = exchange.method in ("GET", "HEAD")  # GET / leads to the console, POST / is TEI's embed
        if path.startswith(CONSOLE) or (is_read and path in self._public):
            return None
        key = None if self._find_key is None else _checked_key(self._find_key, headers)
        if not self._state.is_started:
            raise NotReady("The server is starting; ask /readyz when it is ready.")
        if key is not None and not key.is_operator and self._is_for_operators(path):
            raise NotPermitted(
                f"The key {key.id}... may call the server, not operate it. "
                "`tremplin keys create --operator` makes one that may."
            )
        return key

    async def answer(
        self, exchange: Exchange, route: HotRoute, headers: Headers, key: ApiKey | None, body: bytes
    ) -> HotAnswer:
        """Return the answer of a hot route; every failure becomes a problem."""
        endpoint = route.endpoint
        assert endpoint.hot is not None
        try:
            call = call_of(headers, "" if key is None else key.id)
            reply = await endpoint.hot(HotRequest(body, call, headers, route.parameters))
        except Exception as error:
            return self.refuse(exchange, route, error)
        exchange.status = 200
        answer_headers = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", exchange.request_id.encode()),
            *reply.headers,
        ]
        if self._state.is_draining:
            answer_headers.append((b"connection", b"close"))
        return HotAnswer(200, answer_headers, reply.body)

    def refuse(self, exchange: Exchange, route: HotRoute | None, error: Exception) -> HotAnswer:
        """Return an error as the caller sees it; one that nobody expected is logged."""
        self._log_unexpected(exchange, error)
        problem = problem_of(
            error,
            dialect=exchange.dialect,
            request_id=exchange.request_id,
            rows_at=route.endpoint.rows_at if route else "",
        )
        exchange.status = problem.status
        problem.headers.append((b"x-request-id", exchange.request_id.encode()))
        if self._state.is_draining:
            problem.headers.append((b"connection", b"close"))
        return HotAnswer(problem.status, problem.headers, problem.body)

    def end(self, exchange: Exchange, scope: Scope | None = None) -> None:
        """Count a request out."""
        self._state.in_flight -= 1
        seconds = time.perf_counter() - exchange.started
        route = exchange.route or _template(scope or {})
        status = exchange.status or 499
        self._metrics.request(route, status, seconds)
        self._access_log.request(exchange.request_id, exchange.method, route, status, seconds)

    def _is_for_operators(self, path: str) -> bool:
        return path in self._operators or any(p.fullmatch(path) is not None for p in self._operator_patterns)

    def _log_unexpected(self, exchange: Exchange, error: Exception) -> None:
        if not isinstance(error, TremplinError):
            log.exception("unexpected error", request_id=exchange.request_id, error=error)

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


def dialect_of(path: str) -> Dialect:
    """Return whose clients call a path, so that even a 404 speaks their dialect."""
    if path.startswith("/v2"):
        return Dialect.V2
    if path.startswith(("/v1", CONSOLE)):
        return Dialect.OPENAI
    return Dialect.TEI


def too_large(limit: int) -> BodyTooLarge:
    """Return the error of a body above the limit."""
    return BodyTooLarge(f"The body is larger than {limit:,} bytes. Send it in parts.")


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


def _template(scope: Scope) -> str:
    """The route's template; addresses nobody declared share one name, or labels would grow without bound."""
    if scope.get("path", "").startswith(CONSOLE):
        return "/console"
    return str(scope.get("tremplin.route", "unknown"))


def _request_id(headers: Headers) -> str:
    """Return the caller's id when it is harmless to log, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{PROCESS_ID}{next(REQUEST_NUMBERS):08x}"


def _checked_key(find_key: Callable[[str], ApiKey | None], headers: Headers) -> ApiKey:
    secret = _secret(headers)
    if not secret:
        raise MissingKey(
            "Send an API key as 'Authorization: Bearer tk_...' or 'X-API-Key: tk_...'. "
            "`tremplin keys create` makes one."
        )
    key = find_key(secret)
    if key is None:
        raise InvalidKey("The API key is unknown or revoked. `tremplin keys list` shows the live ones.")
    return key


def _secret(headers: Headers) -> str:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip().decode("latin-1")
    return headers.get(b"x-api-key", b"").decode("latin-1")


async def _send_hot(answer: HotAnswer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _body(receive: Receive, limit: int) -> bytes:
    """Return a request's whole body; raises BodyTooLarge, or ClientDisconnect when the caller left."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if len(body) > limit:
        raise too_large(limit)
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
                raise too_large(limit)
        return message

    return bounded
