"""The application: endpoints and console behind the edge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tremplin import __version__
from tremplin.errors import BadInput, TremplinError, UnknownName
from tremplin.gateway.edge import Edge, dialect_of
from tremplin.gateway.endpoint import Endpoint
from tremplin.gateway.problems import METHOD_NOT_ANSWERED, Kind, problem_response
from tremplin.gateway.state import ServerState
from tremplin.monitor.logs import AccessLog
from tremplin.monitor.metrics import Metrics
from tremplin.store.keys import ApiKey


def build_app(
    endpoints: tuple[Endpoint, ...],
    console: Sequence[BaseRoute],
    *,
    state: ServerState,
    metrics: Metrics,
    access_log: AccessLog,
    find_key: Callable[[str], ApiKey | None] | None,
    max_body_bytes: int,
) -> ASGIApp:
    """Return the ASGI application; without ``find_key`` nobody is asked for a key."""
    app = FastAPI(
        title="Tremplin", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json"
    )
    for endpoint in endpoints:
        # The edge answers hot endpoints; here they only make the framework say 405 for other methods.
        handler = endpoint.handler or _never
        route = _Route(endpoint.path, handler, methods=[endpoint.method], name=endpoint.summary)
        app.router.routes.append(route)
    app.router.routes.extend(console)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(TremplinError, _problem)
    app.add_exception_handler(Exception, _problem)  # the framework raises it again, for the edge to log
    app.openapi = lambda: _document(app, endpoints)  # type: ignore[method-assign]
    return Edge(
        app,
        endpoints,
        state=state,
        metrics=metrics,
        access_log=access_log,
        find_key=find_key,
        max_body_bytes=max_body_bytes,
    )


async def _never(request: Request) -> Response:
    raise AssertionError(f"{request.url.path} is answered by the edge; reaching the framework is a bug")


class _Route(Route):
    """Leaves its template in the scope, under which the edge counts and logs the request."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["tremplin.route"] = self.path
        await super().handle(scope, receive, send)


async def _problem(request: Request, error: Exception, kind: Kind | None = None) -> Response:
    dialect, request_id = dialect_of(request.url.path), request.scope["tremplin.request_id"]
    return problem_response(error, dialect=dialect, request_id=request_id, kind=kind)


async def _http_problem(request: Request, error: Exception) -> Response:
    """The framework's own refusals (no such path, wrong method), in our form."""
    path = request.url.path[:200]
    if isinstance(error, HTTPException) and error.status_code == 405:
        wrong = BadInput(f"{request.method} is not answered at {path}; see /openapi.json for what is.")
        response = await _problem(request, wrong, METHOD_NOT_ANSWERED)
        response.headers.update(error.headers or {})  # Allow
        return response
    nothing = UnknownName(f"There is nothing at {path}; see /openapi.json for what there is.")
    return await _problem(request, nothing)


def _document(app: FastAPI, endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """Return the OpenAPI document, made from the endpoints' own shapes."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, routes=[], description="One data plane, four dialects."
    )
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    document["paths"] = paths
    document["components"] = {
        "schemas": schemas,
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
    }
    app.openapi_schema = document
    return document


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "tags": [endpoint.dialect.value],
        "operationId": re.sub(r"[^a-z0-9]+", "_", f"{endpoint.method}{endpoint.path}".lower()).strip("_"),
        "responses": {
            "200": {"description": "The answer."},
            "default": {"description": "A problem (RFC 9457).", "content": {"application/problem+json": {}}},
        },
    }
    names = [part[1:-1].split(":")[0] for part in endpoint.path.split("/") if part.startswith("{")]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if not endpoint.public:
        operation["security"] = [{"bearer": []}, {"header": []}]
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(endpoint, endpoint.body, schemas)}},
        }
    if endpoint.answer is not None:
        operation["responses"]["200"]["content"] = {
            "application/json": {"schema": _reference(endpoint, endpoint.answer, schemas)}
        }
    return operation


def _reference(endpoint: Endpoint, shape: Any, schemas: dict[str, Any]) -> dict[str, str]:
    """Add a shape and those it uses to the schemas; dialects keep their names apart."""
    prefix = endpoint.dialect.name.title()
    schema = shape.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
    for name, inner in schema.pop("$defs", {}).items():
        schemas[prefix + name] = inner
    schemas[prefix + shape.__name__] = schema
    return {"$ref": f"#/components/schemas/{prefix}{shape.__name__}"}
