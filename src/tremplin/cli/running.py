"""What ``up`` and ``serve`` share: the registry, the socket, the engines, the loop."""

from __future__ import annotations

import asyncio
import gc
import sys
import webbrowser
from collections.abc import Coroutine, Sequence

from tremplin.cli.show import out, progress_bar
from tremplin.config import Settings, has_display
from tremplin.errors import StartFailed
from tremplin.gateway.server import open_socket, serve_app
from tremplin.machine import Machine, read_machine, return_free_memory
from tremplin.monitor.logs import configure_logs
from tremplin.registry.services import Service, read_services, write_services
from tremplin.registry.store import Registry
from tremplin.wiring import Places, Server, build_server, open_registry, threads_of

# The default lets a thread keep the interpreter for 5 ms; an engine thread with an answer must not wait that long
# behind the event loop.
SWITCH_INTERVAL_S = 0.0005


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
    with open_socket(settings.host, settings.port) as listener:
        registry = open_registry(settings)
        machine = read_machine()
        threads = threads_of(settings, machine)
        out.print(
            f"Machine   {machine.cpu}, {machine.cores} cores (from {machine.cores_from}), "
            f"{threads} threads per engine",
            highlight=False,
        )
        services = _services(settings, registry, machine, threads, versions, bootstrap)
        if save:
            write_services(Places(settings.data).services, services)
        server = build_server(settings, registry, forced, access_log, follows_file=save or not versions)
        address = f"http://{_shown_host(settings.host)}:{listener.getsockname()[1]}"
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        server.deployment.start(services)

        async def on_started() -> None:
            await server.services.index_documents(Places(settings.data).vectors)
            # What start-up made lives as long as the process: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            return_free_memory()
            server.state.is_started = True
            _announce(server, settings, address, open_browser)

        async def serve() -> None:
            following = asyncio.ensure_future(server.deployment.follow())
            try:
                await serve_app(
                    server.app, listener, server.state, drain_delay_s=settings.drain_delay_s, on_started=on_started
                )
            finally:
                following.cancel()
                await server.cache.close()

        try:
            _run(serve())
        finally:
            server.deployment.stop()


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


def _announce(server: Server, settings: Settings, address: str, open_browser: bool) -> None:
    for inferencer in server.services.fleet.inferencers:
        manifest = inferencer.manifest
        note = ""
        if inferencer.broken_bounds:
            note = f"  [red]FORCED: {'; '.join(inferencer.broken_bounds)}[/red]"
        out.print(
            f"Serving   {manifest.ref} ({manifest.interface.task}, {manifest.size_bytes / 1e6:.1f} MB){note}",
            highlight=False,
        )
    if settings.auth:
        live = [key for key in server.keys.all() if key.revoked_at is None]
        if live:
            known = ", ".join(f"{key.id}..." for key in live)
            _say(f"API keys  {known} (shown once; `tremplin keys create` makes another)")
        else:
            _say(f"API key   {server.keys.create('first', is_operator=True)}  (shown once, keep it)")
    else:
        _say("API key   none is asked for (--no-auth)")
    console = f"{address}/console/enter?ticket={server.ticket}"
    _say(f"Console   {console}  (opens once)")
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
