"""Errors as the console shows them."""

from __future__ import annotations

import secrets

from starlette.exceptions import HTTPException
from starlette.requests import Request

from tremplin.console.contexts import Problem
from tremplin.errors import (
    BadInput,
    NotPermitted,
    NotServable,
    Overloaded,
    TremplinError,
    Unavailable,
    UnknownName,
    UnknownVersion,
)

# The console's own table: a page has few outcomes, and the gateway's (routes, dialects) are not its business.
STATUS: tuple[tuple[type[TremplinError], int], ...] = (
    (UnknownVersion, 404),
    (UnknownName, 404),
    (BadInput, 422),
    (NotServable, 409),
    (NotPermitted, 403),
    (Unavailable, 503),
)

# Errors the catalogues explain; another one is shown as its nearest ancestor here.
EXPLAINED = frozenset(
    {
        "EmptyText", "InvalidText", "TextTooLong", "TooManyInputs", "BodyTooLarge", "UnknownModel",
        "UnknownService", "BadInput", "NotReady", "Overloaded", "DeadlineExceeded", "Unavailable",
        "UnknownVersion", "DamagedArtefact", "NotServable", "RegistryError", "EngineFailed", "NotPermitted",
        "MissingKey", "InvalidKey", "TremplinError",
    }
)  # fmt: skip
UNPLANNED = frozenset({"NotFound", "NotAllowed", "Unexpected"})


def request_id(request: Request) -> str:
    """Return the id the gateway gave the request, or a new one; the same for the whole request."""
    state = request.scope.setdefault("state", {})
    known = state.get("request_id")
    if not isinstance(known, str):
        known = state["request_id"] = secrets.token_hex(8)
    return known


def problem_of(error: Exception, request: Request) -> Problem:
    """Return how an error is shown. Errors that are not ours say nothing of their content."""
    if isinstance(error, HTTPException):
        kind = "NotFound" if error.status_code == 404 else "NotAllowed"
        return Problem(kind, error.status_code, "", request_id(request))
    if not isinstance(error, TremplinError):
        return Problem("Unexpected", 500, "", request_id(request))
    status = next((status for branch, status in STATUS if isinstance(error, branch)), 500)
    retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else None
    kind = next(parent.__name__ for parent in type(error).__mro__ if parent.__name__ in EXPLAINED)
    return Problem(kind, status, str(error), request_id(request), retry_after_s)
