"""Interactive requests beside bulk: how much they wait, and what bulk loses.

Interactive requests are single short texts that leave as a Poisson process, far below capacity; bulk is a closed
loop of clients that send many texts a request and never pause.
"""

from __future__ import annotations

import asyncio

from benchmarks.record import Result, figure
from benchmarks.server import NO_CACHE, RunningServer, running_server
from benchmarks.serving.load import Run, closed_loop, nearest_rank, open_loop, run_load
from benchmarks.serving.stage import WARM_S, Rounds, staged
from benchmarks.texts import mixed_texts, short_texts

# About a thirtieth of what one core does with such texts: people, not a load.
INTERACTIVE_PER_S = 25.0
BULK_CONNECTIONS, BULK_ROWS = 8, 32


def run(rounds: int, seconds: float = 15.0) -> Result:
    """Measure interactive p99 alone and beside bulk, and bulk throughput alone and beside interactive."""
    short_name, short = short_texts(2048)
    mix_name, mix = mixed_texts(2048)
    found = Rounds()
    with (
        staged() as stage,
        running_server(stage.data, "--threads", "1", cores=stage.server_cores, environment=NO_CACHE) as server,
    ):
        interactive = [server.request(text) for text in short]
        starts = range(0, len(mix), BULK_ROWS)
        bulk = {
            name: [server.request(mix[start : start + BULK_ROWS], **headers) for start in starts]
            for name, headers in {"bulk": {"X_Tremplin_Priority": "bulk"}, "unmarked": {}}.items()
        }
        for number in range(rounds):
            _round(server, interactive, bulk, found, seconds, number)
    allowed = [1.5 * idle + batch for idle, batch in zip(found["idle p99"], found["batch"], strict=True)]
    found.values["allowed"] = allowed
    return Result(
        scenario="Serving: interactive beside bulk",
        setting=(
            f"One core, one engine thread, {stage.version}, no cache. "
            f"Interactive: {short_name}, Poisson, {INTERACTIVE_PER_S:g}/s, one text each. "
            f"Bulk: {mix_name}; {BULK_CONNECTIONS} connections, {BULK_ROWS} texts a request, "
            f"header `X-Tremplin-Priority: bulk`. {rounds} rounds of {seconds:g} s."
        ),
        figures=[
            figure("interactive p99 beside bulk / (1.5 x idle p99 + one batch)",
                   found.ratio("bulk p99", "allowed"), "", at_most=1.0),
            figure("bulk beside interactive / bulk alone", found.ratio("beside", "alone"), "", at_least=0.80),
            figure("interactive p50, idle", found["idle p50"], "ms"),
            figure("interactive p99, idle", found["idle p99"], "ms"),
            figure("interactive p50 beside bulk", found["bulk p50"], "ms"),
            figure("interactive p99 beside bulk", found["bulk p99"], "ms"),
            figure("interactive p99 beside the same work not marked as bulk", found["unmarked p99"], "ms"),
            figure("one batch of bulk, p99", found["batch"], "ms"),
            figure("one batch of bulk, mean", found["mean batch"], "ms"),
            figure("bulk alone", found["alone"], "texts/s"),
            figure("bulk beside interactive", found["beside"], "texts/s"),
        ],
        notes=[
            "One batch is the p99 of the last 100 while bulk runs alone (/debug/batches): an interactive request "
            "cannot interrupt the one that runs, and meets long ones more often than short ones.",
        ],
    )  # fmt: skip


def _round(
    server: RunningServer,
    interactive: list[bytes],
    bulk: dict[str, list[bytes]],
    found: Rounds,
    seconds: float,
    number: int,
) -> None:
    async def alone() -> Run:
        return await open_loop(
            server.target, interactive, INTERACTIVE_PER_S, seconds=seconds, warm_s=WARM_S, seed=number
        )

    async def solid(requests: list[bytes]) -> Run:
        # Longer than the interactive window on both sides, which then meets bulk throughout.
        return await closed_loop(server.target, requests, BULK_CONNECTIONS, seconds=seconds + 2 * WARM_S)

    async def both(requests: list[bytes]) -> tuple[Run, Run]:
        return await asyncio.gather(alone(), solid(requests))  # type: ignore[return-value]

    def measure_alone() -> None:
        idle = run_load(alone()).checked()
        found.add("idle p50", idle.latency_s(50) * 1e3)
        found.add("idle p99", idle.latency_s(99) * 1e3)
        found.add("alone", run_load(solid(bulk["bulk"])).checked().rate * BULK_ROWS)
        batches = [float(batch["compute_ms"]) for batch in server.get("/debug/batches")["batches"]]
        found.add("batch", nearest_rank(batches, 99))
        found.add("mean batch", sum(batches) / len(batches))
        print(f"idle {idle.summary()}", flush=True)

    def measure_both() -> None:
        people, work = run_load(both(bulk["bulk"]))
        found.add("bulk p50", people.checked().latency_s(50) * 1e3)
        found.add("bulk p99", people.latency_s(99) * 1e3)
        found.add("beside", work.checked().rate * BULK_ROWS)
        unmarked, _ = run_load(both(bulk["unmarked"]))
        found.add("unmarked p99", unmarked.checked().latency_s(99) * 1e3)
        print(f"beside bulk {people.summary()}\nbeside unmarked {unmarked.summary()}", flush=True)

    for measure in (measure_alone, measure_both) if number % 2 == 0 else (measure_both, measure_alone):
        measure()
