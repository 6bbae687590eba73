"""What a route is: one value from which routing, the hot path and the API document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tremplin.gateway.bodies import Reply
from tremplin.gateway.problems import Dialect
from tremplin.serve.call import Call

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HotRequest:
    """A request on a path that carries inference."""

    body: bytes
    call: Call
    headers: Mapping[bytes, bytes]
    """Names in lower case."""
    parameters: Mapping[str, str]
    """Of the path."""


HotHandler = Callable[[HotRequest], Awaitable[Reply]]


@dataclass(frozen=True)
class Endpoint:
    """One operation of the data plane. It has a handler or, on the paths that carry inference, a hot one."""

    method: str
    path: str
    dialect: Dialect
    summary: str
    handler: Handler | None = None
    """Called by the framework."""
    hot: HotHandler | None = None
    """Called by the edge with the body, past the framework."""
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    """The answer's shape, for the API document; handlers write their answers themselves."""
    public: bool = False
    """Answered without a key."""
    operators: bool = False
    """Only for keys with the right to operate the server."""
    rows_at: str = ""
    """JSON pointer to the member that holds the texts, so that an error can point at one of them."""
