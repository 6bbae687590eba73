"""What a route is: one value from which routing, the hot path and the API document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tremplin.gateway.bodies import Reply
from tremplin.gateway.problems import Dialect

Handler = Callable[[Request], Awaitable[Response]]
HotHandler = Callable[[bytes], Awaitable[Reply]]


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
    """Called by the edge with the body, past the framework; its path has no parameter."""
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    """The answer's shape, for the API document; handlers write their answers themselves."""
    public: bool = False
    """Answered without a key."""
    rows_at: str = ""
    """JSON pointer to the member that holds the texts, so that an error can point at one of them."""
