"""Reading request bodies and writing answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from tremplin.errors import MalformedBody
from tremplin.serve.timing import Timings

Body = TypeVar("Body", bound=BaseModel)

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a hot route, ready to be sent."""

    body: bytes
    headers: list[tuple[bytes, bytes]]
    content_type: bytes = b"application/json"


def parse(payload: bytes, shape: type[Body]) -> Body:
    """Return a JSON body in the given shape.

    Raises MalformedBody saying which member is wrong and what was expected, never what was sent.
    """
    try:
        return shape.model_validate_json(payload)
    except ValidationError as error:
        raise _malformed(error) from None


def _malformed(error: ValidationError) -> MalformedBody:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBody(f"The body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
    # Alternatives of a union add names of types to the path; only members and positions point anywhere.
    path = [str(step) for step in first["loc"] if isinstance(step, int) or step.isidentifier()]
    member = path[0] if path else ""
    pointer = "/" + "/".join(path[:1] if len(error.errors()) > 1 else path) if path else None
    if len({e["loc"][0] for e in error.errors() if e["loc"]}) == 1 and error.error_count() > 1:
        wanted = "; or ".join(dict.fromkeys(e["msg"].lower() for e in error.errors()[:4]))
        return MalformedBody(f"The member {member!r} has the wrong shape: {wanted}.", pointer=pointer)
    where = f"The member {'.'.join(path)!r}" if path else "The body"
    return MalformedBody(f"{where} has the wrong shape: {first['msg'].lower()}.", pointer=pointer)


def answer(body: object, timings: Timings | None = None, version: str = "") -> Reply:
    """Return a JSON answer; NumPy arrays are written as lists, floats as short as they can be."""
    headers = []
    if timings is not None:
        headers.append((b"server-timing", server_timing(timings)))
        if timings.truncated:
            headers.append((b"x-tremplin-truncated", b"%d" % timings.truncated))
        if timings.cached:
            headers.append((b"x-tremplin-cached", b"%d" % timings.cached))
    if version:
        headers.append((b"x-tremplin-version", version.encode()))
    return Reply(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), headers)


def respond(body: object, status: int = 200) -> Response:
    """Return a JSON answer of a route that the framework serves."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type=JSON)


def server_timing(timings: Timings) -> bytes:
    """Return the phases as a Server-Timing header (W3C), which browsers draw; milliseconds."""
    return b"tokenize;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f" % (
        timings.tokenize_ms,
        timings.queue_ms,
        timings.compute_ms,
    )
