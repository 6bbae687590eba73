"""What a route is: one value from which routing, the hot path and the API document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tremplin.gateway.problems import Dialect

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """One operation of the data plane."""

    method: str
    path: str
    handler: Handler
    dialect: Dialect
    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    """The answer's shape, for the API document; handlers write their answers themselves."""
    hot: bool = False
    """Reached by a look-up before the framework: for the routes that carry inference (no path parameter)."""
    public: bool = False
    """Answered without a key."""
    rows_at: str = ""
    """JSON pointer to the member that holds the texts, so that an error can point at one of them."""
