"""``tremplin up``: the main job, from an empty folder to a served model with a page to try it."""

from __future__ import annotations

from typing import Annotated

import typer

from tremplin.cli.options import (
    Data,
    Documents,
    Engine,
    EngineProcess,
    Force,
    GrpcPort,
    Host,
    NoAuth,
    Port,
    Streams,
    Threads,
    Workers,
)


def up(
    data: Data = None,
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the console.")] = False,
    no_auth: NoAuth = False,
    threads: Threads = None,
    streams: Streams = None,
    workers: Workers = None,
    engine: Engine = None,
    engine_process: EngineProcess = False,
    documents: Documents = None,
    force: Force = None,
) -> None:
    """Import the bundled model, optimise it, prove it, serve it, open the console."""
    from tremplin.cli.running import run_server
    from tremplin.config import read_settings

    settings = read_settings(
        data=data,
        host=host,
        port=port,
        grpc_port=grpc_port,
        threads=threads,
        streams=streams,
        workers=workers,
        engine=engine,
        engine_process=engine_process or None,
        documents=documents,
        auth=False if no_auth else None,
    )
    run_server(settings, frozenset(force or ()), bootstrap=True, open_browser=not no_browser)
