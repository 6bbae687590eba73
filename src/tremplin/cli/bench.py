"""``tremplin bench``: measure a version's speed again, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from tremplin.cli.options import Data, Json, Threads


def bench(
    version: Annotated[str, typer.Argument(help="model or model@version.")] = "minilm",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes and rounds.")] = False,
    threads: Threads = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Measure load time, memory, latency and throughput, and keep them in the passport."""
    from dataclasses import asdict

    from tremplin.cli.show import out, print_json, progress_bar
    from tremplin.config import read_settings
    from tremplin.machine import read_machine
    from tremplin.optimize.measure import FULL, QUICK
    from tremplin.optimize.publish import measure_and_record
    from tremplin.optimize.report.terminal import print_report
    from tremplin.wiring import open_registry, threads_of

    settings = read_settings(data=data, threads=threads)
    registry = open_registry(settings)
    machine = read_machine()
    manifest = registry.resolve(version)
    with progress_bar(f"Measure {manifest.ref}", quiet=json) as progress:
        progress("in a process of its own", 0.1)
        speed = measure_and_record(
            registry,
            manifest,
            machine,
            threads=threads_of(settings, machine),
            effort=QUICK if quick else FULL,
        )
    if json:
        print_json(asdict(speed))
    else:
        print_report(out, [manifest], {manifest.ref: [speed]})
