"""Memory over time under requests of random shape, for as long as one likes."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

from benchmarks import processes
from benchmarks.record import Result, figure
from benchmarks.server import NO_CACHE, RunningServer, running_server
from benchmarks.serving.load import closed_loop
from benchmarks.serving.stage import staged
from benchmarks.texts import mixed_texts

CONNECTIONS = 16
MOST_ROWS = 64
# The allocator's arenas and the engine's buffers fill in the first minutes; growth counts from then on.
SETTLED_SHARE = 0.1
SAMPLES = 600
PIECE_S = 60.0


def run(minutes: float = 60.0) -> Result:
    """Load a server with random shapes and watch its resident memory."""
    mix_name, mix = mixed_texts(20_000)
    draw = random.Random(0)
    with (
        staged() as stage,
        running_server(stage.data, "--threads", "1", cores=stage.server_cores, environment=NO_CACHE) as server,
    ):
        requests = [server.request(draw.sample(mix, _rows(draw))) for _ in range(2000)]
        samples, answered = asyncio.run(_soak(server, requests, minutes * 60))
    settled = samples[int(len(samples) * SETTLED_SHARE) :]
    tenth = max(1, len(settled) // 10)
    before, after = statistics.median(settled[:tenth]), statistics.median(settled[-tenth:])
    shown = settled[:: max(1, len(settled) // 12)]
    return Result(
        scenario="Serving: memory over time",
        setting=(
            f"One core, one engine thread, {stage.version}, cache off; {minutes:g} minutes, "
            f"{CONNECTIONS} connections, 1 to "
            f"{MOST_ROWS} texts a request (half of them 1), MIX = {mix_name}; memory of all processes (PSS), "
            f"{len(samples)} samples."
        ),
        figures=[
            figure(
                "growth, last tenth / first tenth after settling, less 1", [after / before - 1], "", at_most=0.05
            ),
            figure("memory, first tenth after settling", [before / 1e6], "MB"),
            figure("memory, last tenth", [after / 1e6], "MB"),
            figure("memory, most", [max(samples) / 1e6], "MB"),
            figure("requests answered", [answered], ""),
        ],
        notes=[
            f"The first {SETTLED_SHARE:.0%} are settling. MB over time since then: "
            + ", ".join(f"{sample / 1e6:.0f}" for sample in shown)
            + ".",
        ],
    )


async def _soak(server: RunningServer, requests: list[bytes], seconds: float) -> tuple[list[int], int]:
    """Return memory samples and the number of answers; outcomes are dropped piece by piece."""
    started = time.monotonic()
    samples: list[int] = []

    async def watch() -> None:
        while True:
            samples.append(processes.memory_bytes(server.process.pid))
            await asyncio.sleep(seconds / SAMPLES)

    watcher = asyncio.ensure_future(watch())
    answered = 0
    while (left := started + seconds - time.monotonic()) > 0.1:
        piece = await closed_loop(server.target, requests, CONNECTIONS, seconds=min(left, PIECE_S))
        # On a machine that does other work as well, a full queue refuses; anything else is a fault.
        if unexpected := set(piece.statuses) - {200, 429}:
            raise RuntimeError(f"answers by status: {piece.statuses}; {sorted(unexpected)} were not expected here")
        answered += piece.statuses.get(200, 0)
        random.Random(answered).shuffle(requests)
    watcher.cancel()
    return samples, answered


def _rows(draw: random.Random) -> int:
    return 1 if draw.random() < 0.5 else draw.randint(2, MOST_ROWS)
