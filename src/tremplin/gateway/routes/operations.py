"""What orchestrators, Prometheus and operators ask."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tremplin.gateway.bodies import respond
from tremplin.gateway.endpoint import Endpoint
from tremplin.gateway.problems import Dialect
from tremplin.gateway.siblings import Siblings
from tremplin.gateway.state import ServerState
from tremplin.monitor.batches import KEPT
from tremplin.monitor.merge import merge
from tremplin.monitor.metrics import CONTENT_TYPE
from tremplin.serve.services import Services


def endpoints(services: Services, state: ServerState, siblings: Siblings) -> tuple[Endpoint, ...]:
    """Return the operational routes; those that orchestrators ask need no key."""

    async def livez(request: Request) -> Response:
        """The event loop turns: it answered."""
        return respond({"status": "live"})

    async def readyz(request: Request) -> Response:
        inferencers = services.fleet.inferencers
        engines = {inferencer.manifest.ref: inferencer.engine.health() for inferencer in inferencers}
        has_room = all(inferencer.admission.has_room() for inferencer in inferencers)
        is_ready = state.name == "ready" and all(engines.values()) and has_room
        body = {"status": state.name, "in_flight": state.in_flight, "has_room": has_room, "engines": engines}
        return respond(body, 200 if is_ready else 503)

    async def health(request: Request) -> Response:
        """TEI's health: no body that anyone reads."""
        return await readyz(request)

    async def exposition(request: Request) -> Response:
        reports = await siblings.reports()
        return Response(merge([report.metrics for report in reports]), media_type=CONTENT_TYPE)

    async def debug_batches(request: Request) -> Response:
        found = [batch for report in await siblings.reports() for batch in report.batches]
        found.sort(key=lambda batch: str(batch["at"]), reverse=True)
        return respond({"batches": found[:KEPT]})

    return (
        Endpoint("GET", "/livez", Dialect.NATIVE, "Whether the process lives", livez, public=True),
        Endpoint("GET", "/readyz", Dialect.NATIVE, "Whether to send requests here", readyz, public=True),
        Endpoint("GET", "/health", Dialect.TEI, "Whether to send requests here (TEI)", health, public=True),
        Endpoint("GET", "/metrics", Dialect.NATIVE, "Prometheus metrics", exposition, public=True),
        Endpoint("GET", "/debug/batches", Dialect.NATIVE, "The last batches", debug_batches, operators=True),
    )
