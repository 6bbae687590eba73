"""The only place that knows how an error looks over HTTP.

Errors are problem details (RFC 9457). Each dialect's clients read a member of their own as well, so the same
body carries it: ``error`` is an object for OpenAI's clients, a string for those of TEI and of Open Inference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import orjson
from starlette.responses import Response

from tremplin import errors
from tremplin.errors import BadInput, Overloaded, TremplinError

TYPE_BASE = "https://github.com/tremplin/tremplin/blob/main/docs/reference/problems.md#"
MEDIA_TYPE = "application/problem+json"


class Dialect(Enum):
    """Whose clients a route speaks to."""

    NATIVE = "native"
    OPENAI = "openai"
    TEI = "tei"
    V2 = "v2"


@dataclass(frozen=True)
class Kind:
    """How a class of errors is answered."""

    status: int
    slug: str
    title: str
    tei_type: str = "Validation"
    tei_status: int | None = None
    """TEI's own status for it, where it differs."""


# From error class to answer. A test walks the tree of errors and fails when a class is missing here.
KINDS: dict[type[TremplinError], Kind] = {
    errors.EmptyText: Kind(400, "empty-text", "There is nothing to work on", "Empty"),
    errors.InvalidText: Kind(422, "invalid-text", "The text is not valid text", "Tokenizer"),
    errors.TextTooLong: Kind(422, "text-too-long", "The text is too long for the model"),
    errors.TooManyInputs: Kind(413, "too-many-inputs", "The request carries too many inputs"),
    errors.BodyTooLarge: Kind(413, "body-too-large", "The request is too large"),
    errors.MalformedBody: Kind(422, "malformed-body", "The request's body cannot be read"),
    errors.UnknownModel: Kind(404, "unknown-model", "There is no such model here"),
    errors.UnknownService: Kind(
        404, "unknown-service", "There is no such service here", "Backend", tei_status=424
    ),
    errors.UnknownName: Kind(404, "unknown-name", "There is nothing of this name"),
    errors.BadInput: Kind(422, "bad-input", "The request cannot be used"),
    errors.MissingKey: Kind(401, "missing-key", "An API key is needed"),
    errors.InvalidKey: Kind(401, "invalid-key", "The API key is not valid"),
    errors.NotPermitted: Kind(403, "not-permitted", "This is not permitted"),
    errors.NotReady: Kind(503, "not-ready", "The server is not ready", "Unhealthy"),
    errors.Overloaded: Kind(429, "overloaded", "The server is full", "Overloaded"),
    errors.DeadlinePassed: Kind(504, "deadline-passed", "The deadline passed", "Backend"),
    errors.Unavailable: Kind(503, "unavailable", "The service is not available", "Unhealthy"),
    errors.EngineOutOfMemory: Kind(
        500, "engine-out-of-memory", "The engine ran out of memory", "Backend", tei_status=424
    ),
    errors.EngineHung: Kind(500, "engine-hung", "The engine did not answer", "Backend", tei_status=424),
    errors.EngineCrashed: Kind(500, "engine-crashed", "The engine crashed", "Backend", tei_status=424),
    errors.EngineNotRunning: Kind(503, "engine-not-running", "The engine is not running", "Unhealthy"),
    errors.EngineFailed: Kind(500, "engine-failed", "The engine failed", "Backend", tei_status=424),
    errors.NotServable: Kind(409, "not-servable", "The version misses its quality bound", "Backend"),
    errors.DamagedArtefact: Kind(500, "damaged-artefact", "A file of the version is damaged", "Backend"),
    errors.UnknownVersion: Kind(404, "unknown-version", "There is no such version"),
    errors.PublishFailed: Kind(507, "publish-failed", "Nothing was published", "Backend"),
    errors.RegistryError: Kind(500, "registry-error", "The registry cannot be used", "Backend"),
    errors.UnsafeWeights: Kind(422, "unsafe-weights", "The weights could run code"),
    errors.UnsupportedModel: Kind(422, "unsupported-model", "The architecture is not supported"),
    errors.IncompleteSource: Kind(422, "incomplete-source", "The source is incomplete or damaged"),
    errors.TokenizerMismatch: Kind(422, "tokenizer-mismatch", "The tokenizer does not fit the model"),
    errors.ParityFailed: Kind(422, "parity-failed", "The graph differs from its source"),
    errors.ImportRefused: Kind(422, "import-refused", "The source was refused"),
    errors.PassFailed: Kind(422, "pass-failed", "A pass could not do its work", "Backend"),
    errors.OptimizeFailed: Kind(422, "optimize-failed", "The version could not be made", "Backend"),
    errors.TrainingFailed: Kind(422, "training-failed", "A training run could not go on", "Backend"),
    errors.TrainingRefused: Kind(422, "training-refused", "The labelled text cannot train a head"),
    errors.MissingExtra: Kind(501, "missing-extra", "An optional package is needed", "Backend"),
    errors.StartFailed: Kind(500, "start-failed", "The command cannot start", "Backend"),
    errors.InvalidSettings: Kind(500, "invalid-settings", "A setting cannot be used", "Backend"),
    errors.TremplinError: Kind(500, "error", "Something went wrong", "Backend"),
}

# Refusals of HTTP itself, which no class of ours stands for.
METHOD_NOT_ANSWERED = Kind(405, "method-not-answered", "This method is not answered here")
HEADERS_TOO_LARGE = Kind(431, "headers-too-large", "The request's headers are too large")
NOT_HTTP = Kind(400, "not-http", "This is not an HTTP request")

UNEXPECTED = Kind(500, "unexpected", "Something went wrong that should not have", "Backend")


def kind_of(error: Exception) -> Kind:
    """Return how an error is answered: by its class, else by the nearest ancestor in the table."""
    for ancestor in type(error).__mro__:
        if ancestor in KINDS:
            return KINDS[ancestor]
    return UNEXPECTED


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it goes over the wire."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def problem_of(
    error: Exception, *, dialect: Dialect, request_id: str, rows_at: str = "", kind: Kind | None = None
) -> Problem:
    """Return an error as the client sees it. An unexpected exception says nothing of itself.

    ``rows_at`` points to the member with the texts: what knows only a row's number points below it.
    ``kind`` overrules the table, for what only HTTP knows.
    """
    kind = kind or kind_of(error)
    expected = kind is not UNEXPECTED
    detail = str(error) if expected else "An unexpected error was logged under this request id."
    status = kind.tei_status if dialect is Dialect.TEI and kind.tei_status else kind.status
    pointer = error.pointer if isinstance(error, BadInput) else None
    if pointer is not None and pointer[1:].isdigit():
        pointer = rows_at + pointer if rows_at else None
    body: dict[str, object] = {
        "type": TYPE_BASE + kind.slug,
        "title": kind.title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if pointer is not None:
        body["pointer"] = pointer
    body |= _dialect_members(kind, detail, pointer, dialect)
    dumped = _dump(body)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(dumped))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, Overloaded):
        # Retry-After has whole seconds; openai-python prefers the millisecond header when it is there.
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(error.retry_after_s * 1000)))
    if status in (500, 504):  # asking the same again would meet the same end
        headers.append((b"x-should-retry", b"false"))
    return Problem(status, headers, dumped)


def problem_response(error: Exception, *, dialect: Dialect, request_id: str, kind: Kind | None = None) -> Response:
    """Return an error as a response of the framework."""
    problem = problem_of(error, dialect=dialect, request_id=request_id, kind=kind)
    response = Response(problem.body, problem.status)
    response.raw_headers = list(problem.headers)
    return response


def _dialect_members(kind: Kind, detail: str, pointer: str | None, dialect: Dialect) -> dict[str, object]:
    if dialect is Dialect.TEI:
        return {"error": detail, "error_type": kind.tei_type}
    if dialect is Dialect.V2:
        return {"error": detail}
    return {
        "error": {
            "message": detail,
            "type": "invalid_request_error" if kind.status < 500 else "server_error",
            "param": pointer.split("/")[1] if pointer else None,
            "code": kind.slug.replace("-", "_"),
        }
    }


def _dump(body: dict[str, object]) -> bytes:
    """Lone surrogates can come back from a caller's own words; they are replaced, not refused."""
    try:
        return orjson.dumps(body)
    except TypeError:
        import json

        return json.dumps(body).encode()
