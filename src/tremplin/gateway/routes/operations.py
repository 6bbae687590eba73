"""What orchestrators and Prometheus ask."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tremplin.gateway.bodies import respond
from tremplin.gateway.endpoint import Endpoint
from tremplin.gateway.problems import Dialect
from tremplin.gateway.state import ServerState
from tremplin.monitor.metrics import CONTENT_TYPE, Metrics
from tremplin.serve.services import Services


def endpoints(services: Services, metrics: Metrics, state: ServerState) -> tuple[Endpoint, ...]:
    """Return the operational routes; they need no key."""

    async def livez(request: Request) -> Response:
        """The event loop turns: it answered."""
        return respond({"status": "live"})

    async def readyz(request: Request) -> Response:
        engines = {i.manifest.ref: i.engine.health() for i in services.fleet.inferencers}
        is_ready = state.name == "ready" and all(engines.values())
        body = {"status": state.name, "in_flight": state.in_flight, "engines": engines}
        return respond(body, 200 if is_ready else 503)

    async def health(request: Request) -> Response:
        """TEI's health: no body that anyone reads."""
        return await readyz(request)

    async def exposition(request: Request) -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return (
        Endpoint("GET", "/livez", Dialect.NATIVE, "Whether the process lives", livez, public=True),
        Endpoint("GET", "/readyz", Dialect.NATIVE, "Whether to send requests here", readyz, public=True),
        Endpoint("GET", "/health", Dialect.TEI, "Whether to send requests here (TEI)", health, public=True),
        Endpoint("GET", "/metrics", Dialect.NATIVE, "Prometheus metrics", exposition, public=True),
    )
