"""The server against its own engine: what HTTP, queue and batching cost.

Both run on core 0 with one engine thread; the client runs on core 1. The raw engine is fed with ideal batches:
text in, vector out, sorted by length, with the engine and the size measured best. Rounds alternate, so that both
see the same machine; what counts is the ratio within a round.
"""

from __future__ import annotations

from benchmarks.record import Result, figure
from benchmarks.server import NO_CACHE, RunningServer, running_server
from benchmarks.serving.load import Run
from benchmarks.serving.raw_engine import Limit, measure_raw
from benchmarks.serving.stage import Rounds, staged
from benchmarks.texts import long_texts, mixed_texts, short_texts

SHORT_CONNECTIONS = (1, 8, 32, 128)
ROWS_A_REQUEST = 64
# How many clients send requests of 64 texts: enough that the server never waits for one.
BULK_CONNECTIONS = 4


def run(rounds: int, seconds: float = 4.0) -> Result:
    """Measure throughput at each concurrency, latency of a lone request, and padding under backlog."""
    short_name, short = short_texts(512)
    long_name, long = long_texts(64)
    mix_name, mix = mixed_texts(512)
    sets = {"SHORT": short, "LONG": long, "MIX": mix}
    found = Rounds()
    chosen: dict[str, Limit] = {}
    with (
        staged() as stage,
        running_server(stage.data, "--threads", "1", cores=stage.server_cores, environment=NO_CACHE) as server,
    ):
        for number in range(rounds):
            if number % 2:
                _measure_server(server, sets, found, seconds)
            with server.paused():
                chosen = measure_raw(
                    stage.data, stage.version, sets, stage.server_cores, seconds=seconds, chosen=chosen
                )[0]
            for name, limit in chosen.items():
                found.add(f"{name} raw", limit.rate)
                found.add(f"{name} raw b1", limit.batch_1)
            found.add("raw p50", chosen["SHORT"].p50_ms)
            if not number % 2:
                _measure_server(server, sets, found, seconds)
    added = [a - b for a, b in zip(found["SHORT c1 p50"], found["raw p50"], strict=True)]
    return Result(
        scenario="Serving: HTTP against the raw engine",
        setting=(
            f"Server and raw engine on one core, one engine thread, client on another core; cache off. "
            f"SHORT = {short_name}; LONG = {long_name}; MIX = {mix_name}. {stage.version}; {rounds} alternating "
            f"rounds of {seconds:g} s. "
            + " ".join(
                f"Raw {name}: {limit.engine}, batches of {limit.plan}." for name, limit in chosen.items()
            )
        ),
        figures=[
            *(
                figure(
                    f"share of the raw engine, SHORT, {connections} connections",
                    found.ratio(f"SHORT c{connections}", "SHORT raw b1" if connections == 1 else "SHORT raw"), "",
                    at_least={32: 0.80, 128: 0.90}.get(connections),
                )
                for connections in SHORT_CONNECTIONS
            ),
            figure("share of the raw engine, LONG, 32 connections", found.ratio("LONG c32", "LONG raw"), "",
                   at_least=0.95),
            figure("LONG, 32 connections / raw engine at batch 1", found.ratio("LONG c32", "LONG raw b1"), ""),
            figure("share of the raw engine, MIX, 128 connections", found.ratio("MIX c128", "MIX raw"), ""),
            figure(f"share of the raw engine, {ROWS_A_REQUEST} SHORT texts a request",
                   found.ratio("SHORT x64", "SHORT raw"), "", at_least=0.90),
            figure("added p50 at one connection", added, "ms", at_most=0.8),
            figure("p50 at one connection", found["SHORT c1 p50"], "ms"),
            figure("p50 of the raw engine, one text", found["raw p50"], "ms"),
            figure("p99 / p50 at 128 connections, SHORT", found["SHORT c128 p99/p50"], "", at_most=1.5),
            figure("padding under backlog, SHORT, 128 connections", found["SHORT c128 padding"], "", at_most=0.05),
            figure("padding under backlog, MIX, 128 connections", found["MIX c128 padding"], "", at_most=0.05),
            *(
                figure(
                    f"requests per second, SHORT, {connections} connections", found[f"SHORT c{connections}"], "/s"
                )
                for connections in SHORT_CONNECTIONS
            ),
            figure("requests per second, LONG, 32 connections", found["LONG c32"], "/s"),
            figure("requests per second, MIX, 128 connections", found["MIX c128"], "/s"),
            figure(f"texts per second, {ROWS_A_REQUEST} a request, SHORT", found["SHORT x64"], "/s"),
            *(figure(f"texts per second of the raw engine, {name}", found[f"{name} raw"], "/s") for name in sets),
        ],
        notes=[
            "The share at one connection is of the raw engine at batch 1. Throughput counts answers that end "
            "within the window; padding is a share of the tokens computed, from the server's /metrics.",
        ],
    )  # fmt: skip


def _measure_server(server: RunningServer, sets: dict[str, list[str]], found: Rounds, seconds: float) -> None:
    wire = {name: [server.request(text) for text in texts] for name, texts in sets.items()}
    for connections in SHORT_CONNECTIONS:
        result, padding = _loop(server, wire["SHORT"], connections, seconds)
        found.add(f"SHORT c{connections}", result.rate)
        found.add(f"SHORT c{connections} p50", result.latency_s(50) * 1e3)
        found.add(f"SHORT c{connections} p99/p50", result.latency_s(99) / result.latency_s(50))
        found.add(f"SHORT c{connections} padding", padding)
    # Few answers a second: a longer window, or chance decides.
    found.add("LONG c32", _loop(server, wire["LONG"], 32, 1.5 * seconds)[0].rate)
    result, padding = _loop(server, wire["MIX"], 128, 1.5 * seconds)
    found.add("MIX c128", result.rate)
    found.add("MIX c128 padding", padding)
    short = sets["SHORT"]
    requests = [
        server.request(short[start : start + ROWS_A_REQUEST]) for start in range(0, len(short), ROWS_A_REQUEST)
    ]
    result, _ = _loop(server, requests, BULK_CONNECTIONS, seconds)
    found.add("SHORT x64", result.rate * ROWS_A_REQUEST)


def _loop(server: RunningServer, requests: list[bytes], connections: int, seconds: float) -> tuple[Run, float]:
    """Return a closed loop's run and the share of the tokens computed during it that were padding."""
    before = server.metrics()
    result = server.closed_loop(requests, connections, seconds=seconds)
    print(f"  {connections:>4} connections: {result.summary()}", flush=True)
    after = server.metrics()
    padding, tokens = (
        after[name] - before.get(name, 0.0) for name in ("tremplin_padding_tokens_total", "tremplin_tokens_total")
    )
    return result, padding / (padding + tokens)
