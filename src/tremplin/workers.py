"""A server of several processes: one accepts connections and hands them out, the workers serve.

Connections go to the workers in turn, so that two of them never meet at one worker while another idles, which a
port shared by the kernel's hash cannot promise. A worker that ends is replaced; the parent computes nothing and
lives on.

A worker is ``python -m tremplin.workers``: it is told what to serve in one line on its standard input, whose end
is the sign to go, and is handed connections over a Unix socket, one byte with one descriptor each.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from tremplin.config import Settings
from tremplin.errors import StartFailed
from tremplin.registry.services import Service

# A worker that ends by itself is started anew after a pause that doubles while it keeps ending.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
# One that has served this long has proven that it can.
PROVEN_AFTER_S = 60.0

READY = b"r"

log = structlog.get_logger()


@dataclass(frozen=True)
class Order:
    """What a worker is told."""

    settings: dict[str, Any]
    services: list[dict[str, str]]
    forced: list[str]
    follows_file: bool
    folder: str
    """Where the workers meet (``gateway/siblings.py``)."""
    index: int


class Worker:
    """One worker as the parent sees it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.pause_s = FIRST_PAUSE_S
        self.start_at: float | None = None
        """When it is to be started again; None while it runs."""
        self.is_ready = False
        self._start()

    def _start(self) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 (this program)
                [sys.executable, "-m", "tremplin.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # The terminal's Ctrl-C reaches the parent, which tells the workers when to go.
                start_new_session=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(self.order)).encode() + b"\n")
        self.process.stdin.flush()
        self.control.setblocking(False)
        self.started = time.monotonic()
        self.start_at = None
        self.is_ready = False

    def hand_over(self, connection: socket.socket) -> bool:
        """Give a connection to the worker; False when it cannot take it now."""
        try:
            socket.send_fds(self.control, [b"c"], [connection.fileno()])
        except OSError:
            return False
        return True

    def lost(self) -> None:
        """Take note that the worker has ended by itself, and plan its return."""
        self.control.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.is_ready = False
        if time.monotonic() - self.started > PROVEN_AFTER_S:
            self.pause_s = FIRST_PAUSE_S
        self.start_at = time.monotonic() + self.pause_s
        log.error(
            "worker ended", index=self.order.index, status=self.process.wait(), again_in_s=round(self.pause_s, 1)
        )
        self.pause_s = min(LONGEST_PAUSE_S, 2 * self.pause_s)

    def restart_if_due(self) -> bool:
        """Start the worker again when its pause is over."""
        if self.start_at is None or time.monotonic() < self.start_at:
            return False
        self._start()
        return True

    def stop(self) -> None:
        """Tell the worker to drain and end."""
        with contextlib.suppress(OSError):
            self.process.send_signal(signal.SIGTERM)


def run_workers(
    settings: Settings,
    listener: socket.socket,
    services: Sequence[Service],
    forced: frozenset[str],
    *,
    follows_file: bool,
    on_started: Callable[[], None],
) -> None:
    """Serve with several processes until told to stop; ``on_started`` is called when all are ready."""
    with tempfile.TemporaryDirectory(prefix="tremplin-workers-") as folder:
        orders = [
            Order(
                settings.model_dump(mode="json"),
                [asdict(service) for service in services],
                sorted(forced),
                follows_file,
                folder,
                index,
            )
            for index in range(settings.workers)
        ]
        _Dispatcher(listener, [Worker(order) for order in orders], settings.drain_delay_s, on_started).run()


class _Dispatcher:
    """The parent's loop: connections, workers that end, signals."""

    def __init__(
        self,
        listener: socket.socket,
        workers: list[Worker],
        drain_delay_s: float,
        on_started: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._workers = workers
        self._drain_delay_s = drain_delay_s
        self._on_started = on_started
        self._next = 0
        self._accept_until: float | None = None
        """When to stop accepting, once told to stop."""
        self._is_started = self._failed = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Loop until told to stop and every worker has ended."""
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._selector.register(woken, selectors.EVENT_READ)
        for worker in self._workers:
            self._selector.register(worker.control, selectors.EVENT_READ, worker)
        while self._accept_until is None or time.monotonic() < self._accept_until:
            for key, _ in self._selector.select(0.1):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is woken:
                    woken.recv(64)
                    self._stop()
                else:
                    self._hear(key.data)
            for worker in self._workers:
                if self._accept_until is None and worker.restart_if_due():
                    self._selector.register(worker.control, selectors.EVENT_READ, worker)
            if not self._is_started and all(worker.is_ready for worker in self._workers):
                self._is_started = True
                self._selector.register(self._listener, selectors.EVENT_READ)
                self._on_started()
        self._listener.close()
        for worker in self._workers:
            worker.process.wait()
        if self._failed:
            raise StartFailed("A worker ended before it was ready; the log says why.")

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone before it was accepted
            return
        with connection:
            for _ in self._workers:
                self._next = (self._next + 1) % len(self._workers)
                worker = self._workers[self._next]
                if worker.is_ready and worker.hand_over(connection):
                    return

    def _hear(self, worker: Worker) -> None:
        try:
            said = worker.control.recv(1)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said == READY:
            worker.is_ready = True
        else:
            self._selector.unregister(worker.control)
            if self._accept_until is not None:
                worker.is_ready = False
            elif self._is_started:
                worker.lost()
            else:
                self._stop()
                self._accept_until = 0.0
                self._failed = True

    def _stop(self) -> None:
        """Begin to drain: workers say so at once, and new connections are taken for a little longer."""
        if self._accept_until is None:
            self._accept_until = time.monotonic() + self._drain_delay_s
        for worker in self._workers:
            worker.stop()


def _work(control: socket.socket) -> None:
    """Be a worker."""
    from tremplin.cli.running import serve_as_worker

    order = Order(**json.loads(sys.stdin.buffer.readline()))
    settings = Settings(**order.settings)
    services = [Service(**service) for service in order.services]  # type: ignore[arg-type]  # Task is a str
    serve_as_worker(
        settings,
        services,
        frozenset(order.forced),
        control,
        Path(order.folder),
        order.index,
        follows_file=order.follows_file,
    )


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as from_parent:
        _work(from_parent)
    os._exit(0)
