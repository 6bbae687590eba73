"""How an error looks over gRPC: the same problem as over HTTP, its status as gRPC's code."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import orjson

from tremplin.gateway.edge import HotAnswer

# From the HTTP status of a problem (``gateway/problems.py``) to gRPC's code, by whose meaning clients act:
# they come back after UNAVAILABLE, and perhaps after RESOURCE_EXHAUSTED. A test finds each status in this table.
CODES: dict[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.INTERNAL,
}

REQUEST_ID = "x-request-id"
# The whole problem document; "-bin" marks a value that is not ASCII.
PROBLEM = "problem-bin"
# What clients with a retry policy obey (gRPC proposal A6): milliseconds to wait, below 0 for "never".
PUSHBACK = "grpc-retry-pushback-ms"

KEPT_HEADERS = (b"x-request-id", b"retry-after-ms", b"x-should-retry")

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends that is not answered."""

    code: grpc.StatusCode
    message: str
    trailing: Metadata


def status_of(problem: HotAnswer) -> Status:
    """Return a problem as gRPC's status: the detail is the message, the rest is trailing metadata."""
    headers = {name: value.decode("latin-1") for name, value in problem.headers if name in KEPT_HEADERS}
    trailing: list[tuple[str, str | bytes]] = [(name.decode(), value) for name, value in headers.items()]
    trailing.append((PROBLEM, problem.body))
    if b"retry-after-ms" in headers:
        trailing.append((PUSHBACK, headers[b"retry-after-ms"]))
    elif headers.get(b"x-should-retry") == "false":
        trailing.append((PUSHBACK, "-1"))
    return Status(CODES[problem.status], orjson.loads(problem.body)["detail"], tuple(trailing))
