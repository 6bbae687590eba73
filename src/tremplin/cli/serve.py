"""``tremplin serve``: serve versions that are published already."""

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


def serve(
    versions: Annotated[
        list[str] | None,
        typer.Argument(help="model or model@version, one per task; the declared services when none is given."),
    ] = None,
    data: Data = None,
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    no_auth: NoAuth = False,
    threads: Threads = None,
    streams: Streams = None,
    workers: Workers = None,
    engine: Engine = None,
    engine_process: EngineProcess = False,
    documents: Documents = None,
    force: Force = None,
    save: Annotated[
        bool, typer.Option("--save", help="Declare these versions as the services from now on.")
    ] = False,
) -> None:
    """Serve published versions; --force names one that misses its bound and must be served all the same."""
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
    run_server(settings, frozenset(force or ()), versions=versions or [], save=save)
