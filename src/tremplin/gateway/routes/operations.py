"""What orchestrators, Prometheus and operators ask."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from tremplin.gateway.bodies import respond
from tremplin.gateway.endpoint import Endpoint
from tremplin.gateway.problems import Dialect
from tremplin.gateway.state import ServerState
from tremplin.monitor.batches import RecentBatches, VersionBatch
from tremplin.monitor.metrics import CONTENT_TYPE, Metrics
from tremplin.serve.services import Services


def endpoints(
    services: Services, metrics: Metrics, state: ServerState, batches: RecentBatches
) -> tuple[Endpoint, ...]:
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
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    async def debug_batches(request: Request) -> Response:
        return respond({"batches": [_batch(one) for one in batches.newest()]})

    return (
        Endpoint("GET", "/livez", Dialect.NATIVE, "Whether the process lives", livez, public=True),
        Endpoint("GET", "/readyz", Dialect.NATIVE, "Whether to send requests here", readyz, public=True),
        Endpoint("GET", "/health", Dialect.TEI, "Whether to send requests here (TEI)", health, public=True),
        Endpoint("GET", "/metrics", Dialect.NATIVE, "Prometheus metrics", exposition, public=True),
        Endpoint("GET", "/debug/batches", Dialect.NATIVE, "The last batches", debug_batches, operators=True),
    )


def _batch(one: VersionBatch) -> dict[str, object]:
    record = one.record
    return {
        "at": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds"),
        "version": one.version,
        "engine": record.engine,
        "priority": record.priority,
        "release": record.release,
        "rows": record.rows,
        "tokens": record.tokens,
        "padding_share": round(record.padding_share, 4),
        "waiting_rows": record.waiting,
        "wait_ms": {
            "shortest": round(record.shortest_wait_s * 1e3, 3),
            "longest": round(record.longest_wait_s * 1e3, 3),
        },
        "compute_ms": round(record.seconds * 1e3, 3),
        "predicted_ms": round(record.predicted_s * 1e3, 3),
        "failed": record.failed,
    }
