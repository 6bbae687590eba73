"""Answers computed before: how long a hit takes, from memory and from Redis.

Every text is asked for once; then each is a hit, which the server's own counters must confirm. The handler's time
is the server's, from a request's first byte to its answer's last (``/metrics``); the client's holds the connection
too.
"""

from __future__ import annotations

from benchmarks import processes
from benchmarks.record import Figure, Result, figure
from benchmarks.server import RunningServer, running_server
from benchmarks.serving.stage import Rounds, staged
from benchmarks.texts import short_texts

CONNECTIONS = (1, 4, 32)
# So many callers who never pause are more than one core answers: the handler's time is then that of the others.
SATURATING = 32
# The bar of a hit, and the least bucket of the server's histogram.
WITHIN_S = 0.001


def run(rounds: int, seconds: float = 4.0) -> Result:
    """Measure hits at one connection and at many, with each cache that can run here."""
    short_name, short = short_texts(512)
    found = Rounds()
    notes: list[str] = []
    with staged() as stage:
        caches = {"memory": ""}
        with processes.redis_server() as url:
            if url:
                caches["Redis"] = url
            else:
                notes.append("redis-server is not installed: its cache was not measured.")
            for name, address in caches.items():
                environment = {"TREMPLIN_CACHE_URL": address} if address else {}
                with running_server(
                    stage.data, "--threads", "1", cores=stage.server_cores, environment=environment
                ) as server:
                    wire = [server.request(text) for text in short]
                    server.closed_loop(wire, 8, count=len(wire))
                    for _ in range(rounds):
                        for connections in CONNECTIONS:
                            _measure(server, wire, connections, f"{name} c{connections}", found, seconds)
    return Result(
        scenario="Serving: answers computed before",
        setting=(
            f"One core, one engine thread, {stage.version}; {short_name}, each asked for before; Redis on the "
            f"client's core; {rounds} rounds of {seconds:g} s."
        ),
        figures=[one for name in caches for one in _figures(name, found)],
        notes=[
            "Within 1 ms: the share of requests whose time at the handler, from first byte read to last byte "
            "written, was no longer; p99 is below 1 ms when it is .99 or more. "
            f"{SATURATING} connections saturate the core: most of a request's time is then other requests'.",
            *notes,
        ],
    )


def _figures(name: str, found: Rounds) -> list[Figure]:
    return [
        one
        for connections in CONNECTIONS
        for one in (
            figure(
                f"{name}: hits within 1 ms at the handler, {connections} connections",
                found[f"{name} c{connections} within"],
                "",
                at_least=0.99 if name == "memory" and connections < SATURATING else None,
            ),
            figure(
                f"{name}: p50 at the client, {connections} connections", found[f"{name} c{connections} p50"], "ms"
            ),
            figure(
                f"{name}: p99 at the client, {connections} connections", found[f"{name} c{connections} p99"], "ms"
            ),
            figure(
                f"{name}: requests per second, {connections} connections", found[f"{name} c{connections}"], "/s"
            ),
        )
    ]


def _measure(
    server: RunningServer, wire: list[bytes], connections: int, name: str, found: Rounds, seconds: float
) -> None:
    before, quick_before = server.metrics(), _within(server)
    run = server.closed_loop(wire, connections, seconds=seconds)
    after, quick = server.metrics(), _within(server) - quick_before
    hits = after["tremplin_cached_rows_total"] - before["tremplin_cached_rows_total"]
    if hits < 0.999 * len(run.outcomes):
        raise RuntimeError(f"only {hits:.0f} of {len(run.outcomes)} answers came from the cache")
    print(f"  {name}: {run.summary()}; {quick / len(run.outcomes):.2%} within 1 ms at the handler", flush=True)
    found.add(name, run.rate)
    found.add(f"{name} within", quick / len(run.outcomes))
    found.add(f"{name} p50", run.latency_s(50) * 1e3)
    found.add(f"{name} p99", run.latency_s(99) * 1e3)


def _within(server: RunningServer) -> float:
    """Return how many embedding requests took no longer than the bar."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in server.metrics_text().splitlines()
        if line.startswith("tremplin_request_duration_seconds_bucket{")
        and f'le="{WITHIN_S:g}"' in line
        and "/v1/embeddings" in line
    )
