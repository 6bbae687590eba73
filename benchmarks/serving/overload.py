"""Three times more than the server can do: what is still answered, how late, and who is told what.

Requests leave as a Poisson process, whether or not the server keeps up. First nobody comes back; then every client
obeys: it waits as the refusal says and sends the same request once more. Texts are distinct, as those of distinct
clients are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.record import Figure, Result, figure
from benchmarks.server import NO_CACHE, RunningServer, running_server
from benchmarks.serving.load import closed_loop, nearest_rank, open_loop, run_load
from benchmarks.serving.stage import Rounds, staged
from benchmarks.texts import distinct_short_texts, mixed_texts

BOUND_S = 2.0
OVERLOAD = 3.0
PEAK_CONNECTIONS = 64
# About where a text is cut at 256 tokens.
MOST_WORDS = 200
# An answer that comes within the stated bound and a fifth is a good one; that is also what p99 is held to.
SLACK = 1.2
# A full queue holds BOUND_S of answers under way, each on a connection of its own.
CONNECTIONS = 8192
# The longest a server may tell a client to wait.
LONGEST_WAIT_S = 120.0


def run(rounds: int, seconds: float = 8.0) -> Result:
    """Measure goodput, latency of the accepted, and first retries at three times the capacity."""
    short_name, short = distinct_short_texts()
    mix_name, mix = mixed_texts(30_000)
    sets = {"MIX": mix, "SHORT": short}
    found = Rounds()
    notes: list[str] = []
    environment = NO_CACHE | {"TREMPLIN_MAX_QUEUE_S": f"{BOUND_S:g}"}
    with (
        staged() as stage,
        running_server(stage.data, "--threads", "1", cores=stage.server_cores, environment=environment) as server,
    ):
        for number in range(rounds):
            for name, texts in sets.items():
                last = _overload(server, name, texts, found, seconds, seed=number)
                if number == rounds - 1:
                    notes.append(last)
    return Result(
        scenario="Serving: three times too much",
        setting=(
            f"One core, one engine thread, {stage.version}, cache off, TREMPLIN_MAX_QUEUE_S={BOUND_S:g}; "
            f"open loop at {OVERLOAD:g} times the peak, a closed "
            f"loop's rate at {PEAK_CONNECTIONS} connections in the round; "
            f"{rounds} rounds of {seconds:g} s after {BOUND_S:g} s of warm-up. MIX = {mix_name}; "
            f"SHORT = {short_name}."
        ),
        figures=[one for name in sets for one in _figures(name, found)],
        notes=[
            f"Good is an answer within {SLACK:g} times the bound, from when its request was meant to leave. "
            "`obeying`: every refused client comes back once, when it was told to, with the same request; those "
            "retries come on top of the load.",
            "In words: a server that refuses long texts first answers more requests with less work.",
            *notes,
        ],
    )


def _figures(name: str, found: Rounds) -> list[Figure]:
    return [
        figure(f"{name}: goodput / peak", found.ratio(f"{name} goodput", f"{name} peak"), "", at_least=0.95),
        figure(
            f"{name}: goodput / peak, in words", found.ratio(f"{name} goodput words", f"{name} peak words"), ""
        ),
        figure(f"{name}: p99 of the accepted / bound", found[f"{name} p99/bound"], "", at_most=SLACK),
        figure(f"{name}: first retries that succeed, obeying", found[f"{name} retries"], "", at_least=0.95),
        figure(f"{name}: goodput / peak, obeying", found.ratio(f"{name} obeying", f"{name} peak"), ""),
        figure(f"{name}: longest wait told", found[f"{name} told"], "s", at_most=LONGEST_WAIT_S),
        figure(f"{name}: refused", found[f"{name} refused"], ""),
        figure(f"{name}: p99 of a refusal", found[f"{name} refusal"], "ms"),
        figure(f"{name}: the client's own lag, p99", found[f"{name} lag"], "ms"),
        figure(f"{name}: neither 200 nor 429", found[f"{name} other"], ""),
        figure(f"{name}: peak", found[f"{name} peak"], "/s"),
    ]


def _overload(
    server: RunningServer, name: str, texts: Sequence[str], found: Rounds, seconds: float, *, seed: int
) -> str:
    wire = [server.request(text) for text in texts]
    # Not every answer need be 200: on a slow machine so many clients may already fill the queue.
    words = [min(len(text.split()), MOST_WORDS) for text in texts]
    closed = run_load(closed_loop(server.target, wire[:2048], PEAK_CONNECTIONS, seconds=seconds))
    peak = closed.rate
    found.add(f"{name} peak", peak)
    found.add(f"{name} peak words", closed.goodput(math.inf, words))
    over = run_load(
        open_loop(
            server.target, wire, OVERLOAD * peak, seconds=seconds, warm_s=BOUND_S, seed=seed,
            most_connections=CONNECTIONS,
        )
    )  # fmt: skip
    print(f"{name} x{OVERLOAD:g}: {over.summary()}", flush=True)
    counted = over.counted
    refusals = [o.latency_s for o in counted if o.status == 429]
    found.add(f"{name} goodput", over.goodput(SLACK * BOUND_S))
    found.add(f"{name} goodput words", over.goodput(SLACK * BOUND_S, words))
    found.add(f"{name} p99/bound", over.latency_s(99) / BOUND_S)
    found.add(f"{name} refused", len(refusals) / len(counted))
    found.add(f"{name} refusal", nearest_rank(refusals, 99) * 1e3)
    found.add(f"{name} lag", over.lag_s * 1e3)
    found.add(f"{name} other", sum(o.status not in (200, 429) for o in counted) / len(counted))
    obeying = run_load(
        open_loop(
            server.target, wire, OVERLOAD * peak, seconds=seconds, warm_s=BOUND_S, seed=seed + 1000, obedient=True,
            drain_s=LONGEST_WAIT_S + 2 * BOUND_S, most_connections=CONNECTIONS,
        )
    )  # fmt: skip
    retried = sum(o.attempt for o in obeying.outcomes)
    print(
        f"{name} x{OVERLOAD:g}, obeying: {obeying.summary()}; {retried} came back, "
        f"{obeying.retries_that_succeed:.1%} with success",
        flush=True,
    )
    found.add(f"{name} retries", obeying.retries_that_succeed)
    found.add(f"{name} obeying", obeying.goodput(SLACK * BOUND_S))
    found.add(f"{name} told", max((o.retry_after_s or 0.0 for o in obeying.outcomes), default=0.0))
    return f"{name}, last round: {over.summary()}."
