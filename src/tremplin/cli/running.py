"""What ``up``, ``serve`` and the workers share: the registry, the socket, the engines, the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import webbrowser
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path

from tremplin.cli.show import out, progress_bar
from tremplin.config import Settings, has_display
from tremplin.errors import StartFailed
from tremplin.gateway.edge import Edge
from tremplin.gateway.server import Connections, handed_over, listening, open_socket, serve_app
from tremplin.machine import Machine, read_machine, return_free_memory
from tremplin.monitor.logs import configure_logs
from tremplin.registry.services import Service, read_services, write_services
from tremplin.registry.store import Registry, check_servable
from tremplin.wiring import (
    Places,
    Server,
    WorkerPlace,
    build_server,
    measure_missing,
    open_keys,
    open_registry,
    open_tickets,
    threads_of,
)

# The default lets a thread keep the interpreter for 5 ms; an engine thread with an answer must not wait that long
# behind the event loop.
SWITCH_INTERVAL_S = 0.0005
# Requests that wait are not garbage, but the default looks through them every 700 allocations; under overload that
# took a twelfth of the event loop's time.
GC_THRESHOLD = (20_000, 20, 20)


def run_server(
    settings: Settings,
    forced: frozenset[str],
    *,
    versions: Sequence[str] = (),
    bootstrap: bool = False,
    save: bool = False,
    open_browser: bool = False,
) -> None:
    """Serve until told to stop. Raises the errors that keep a server from starting."""
    access_log = configure_logs(settings.log_level)
    # Bound first: a port in use must not cost the half minute of a first run.
    with open_socket(settings.host, settings.port) as listener, _grpc_port(settings) as grpc_port:
        settings = settings.model_copy(update={"grpc_port": grpc_port})
        registry = open_registry(settings)
        machine = read_machine()
        threads = threads_of(settings, machine)
        out.print(
            f"Machine   {machine.cpu}, {machine.cores} cores (from {machine.cores_from}), "
            f"workers {settings.workers}, streams {settings.streams}, threads {threads}",
            highlight=False,
        )
        services = _services(settings, registry, machine, threads, versions, bootstrap)
        if save:
            write_services(Places(settings.data).services, services)
        follows_file = save or not versions
        address = f"http://{_shown_host(settings.host)}:{listener.getsockname()[1]}"

        def announce() -> None:
            _announce(settings, registry, services, forced, address, open_browser)

        if settings.workers > 1:
            from tremplin.workers import run_workers

            # Done once here, what every worker would otherwise do or fail at.
            measure_missing(settings, registry, services, forced)
            run_workers(settings, listener, services, forced, follows_file=follows_file, on_started=announce)
            return
        server = build_server(settings, registry, forced, access_log, follows_file=follows_file)
        _serve(server, registry, settings, services, listening(listener), announce)


def serve_as_worker(
    settings: Settings,
    services: Sequence[Service],
    forced: frozenset[str],
    control: socket.socket,
    folder: Path,
    index: int,
    *,
    follows_file: bool,
) -> None:
    """Serve the connections that the parent hands over on ``control``, until it goes or says so."""
    access_log = configure_logs(settings.log_level)
    registry = open_registry(settings)
    server = build_server(
        settings,
        registry,
        forced,
        access_log,
        follows_file=follows_file,
        place=WorkerPlace(folder, index),
    )
    _serve(server, registry, settings, services, handed_over(control), lambda: control.sendall(b"r"))


def _serve(
    server: Server,
    registry: Registry,
    settings: Settings,
    services: Sequence[Service],
    connections: Connections,
    announce: Callable[[], None],
) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if settings.grpc_port is not None:
        connections = _with_grpc(connections, server, registry, settings.host, settings.grpc_port)
    server.deployment.start(services)

    async def on_started() -> None:
        await server.services.index_documents(Places(settings.data).vectors)
        # What start-up made lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        return_free_memory()
        server.state.is_started = True
        announce()

    async def serve() -> None:
        following = asyncio.ensure_future(server.deployment.follow())
        try:
            async with server.siblings.listening():
                await serve_app(
                    server.app,
                    connections,
                    server.state,
                    drain_delay_s=settings.drain_delay_s,
                    on_started=on_started,
                )
        finally:
            following.cancel()
            await server.cache.close()

    try:
        _run(serve())
    finally:
        server.deployment.stop()


@contextlib.contextmanager
def _grpc_port(settings: Settings) -> Iterator[int | None]:
    """Keep the port for gRPC, when one is wanted, and lend its number."""
    if settings.grpc_port is None:
        yield None
        return
    from tremplin.gateway.grpc.port import reserve_port

    with reserve_port(settings.host, settings.grpc_port) as reservation:
        yield reservation.getsockname()[1]


def _with_grpc(connections: Connections, server: Server, registry: Registry, host: str, port: int) -> Connections:
    from tremplin.gateway.grpc.calls import Calls
    from tremplin.gateway.grpc.messages import load_methods
    from tremplin.gateway.grpc.server import beside
    from tremplin.gateway.grpc.service import rpcs

    edge = server.app
    assert isinstance(edge, Edge)  # checks and counts calls of both kinds
    answers = rpcs(server.services, server.metrics, server.state, server.deployment, registry)
    calls = Calls(edge, load_methods(), answers)
    return beside(connections, calls, host, port, max_message_bytes=edge.max_body_bytes)


def _services(
    settings: Settings,
    registry: Registry,
    machine: Machine,
    threads: int,
    versions: Sequence[str],
    bootstrap: bool,
) -> list[Service]:
    file = Places(settings.data).services
    if versions:
        manifests = [registry.resolve(ref) for ref in versions]
        return [Service(m.interface.task.value, m.interface.task, m.ref) for m in manifests]
    declared = read_services(file)
    if declared:
        return declared
    if not bootstrap:
        raise StartFailed(
            f"No service is declared in {settings.data}. Name a version (`tremplin serve MODEL`), "
            "or let `tremplin up` make the first ones."
        )
    from tremplin.bootstrap import first_run

    with progress_bar("First run") as progress:
        return first_run(registry, file, machine, threads, progress)


def _announce(
    settings: Settings,
    registry: Registry,
    services: Sequence[Service],
    forced: frozenset[str],
    address: str,
    open_browser: bool,
) -> None:
    for ref in dict.fromkeys(service.version for service in services):
        manifest = registry.resolve(ref)
        broken = check_servable(manifest, forced=manifest.ref in forced)
        note = f"  [red]FORCED: {'; '.join(broken)}[/red]" if broken else ""
        out.print(
            f"Serving   {manifest.ref} ({manifest.interface.task}, {manifest.size_bytes / 1e6:.1f} MB){note}",
            highlight=False,
        )
    if settings.auth:
        keys = open_keys(settings)
        live = [key for key in keys.all() if key.revoked_at is None]
        if live:
            known = ", ".join(f"{key.id}..." for key in live)
            _say(f"API keys  {known} (shown once; `tremplin keys create` makes another)")
        else:
            _say(f"API key   {keys.create('first', is_operator=True)}  (shown once, keep it)")
    else:
        _say("API key   none is asked for (--no-auth)")
    console = f"{address}/console/enter?ticket={open_tickets(settings).issue()}"
    _say(f"Console   {console}  (opens once)")
    if settings.grpc_port is not None:
        _say(f"gRPC      {_shown_host(settings.host)}:{settings.grpc_port}")
    _say(f"Ready     {address}")
    if open_browser and sys.stdout.isatty() and has_display():
        webbrowser.open(console)


def _say(line: str) -> None:
    """Print a line as it is: a key or an address must not be broken or coloured."""
    out.print(line, highlight=False, soft_wrap=True)


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 (shown, not bound)
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _run(main: Coroutine[None, None, None]) -> None:
    """Run the loop; uvloop costs a third of asyncio's CPU a request where it exists."""
    try:
        import uvloop
    except ImportError:  # Windows
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)
