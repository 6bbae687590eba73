"""Processes of servers: where they run, what memory they hold, how they are stopped; and a Redis of one's own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path


def pinned(cores: Sequence[int] | None) -> Callable[[], None] | None:
    """Return what a new process does first to stay on some cores; its children stay there too."""
    return (lambda: os.sched_setaffinity(0, cores)) if cores else None


def tree(pid: int) -> list[int]:
    """Return a process and everything it started that still runs, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                # The name in brackets may hold blanks; the parent is the second field after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its children; what they share counts once (PSS)."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(re.search(r"Pss:\s+(\d+) kB", rollup).group(1)) * 1024  # type: ignore[union-attr]
    return total


def pause(pid: int) -> None:
    """Stop a server's processes: one that is only idle may still take the core from another."""
    _tell(tree(pid), signal.SIGSTOP)


def resume(pid: int) -> None:
    """Let a stopped server's processes go on."""
    _tell(tree(pid), signal.SIGCONT)


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a server's processes until the block ends."""
    pause(pid)
    try:
        yield
    finally:
        resume(pid)


def stop(process: subprocess.Popen[str], patience_s: float = 30.0) -> int:
    """End a server and whatever it leaves behind; returns its status."""
    started = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    _tell([pid for pid in started if pid != process.pid], signal.SIGTERM)
    deadline = time.monotonic() + 5
    left = [pid for pid in started if pid != process.pid and _runs(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [pid for pid in left if _runs(pid)]
    _tell(left, signal.SIGKILL)
    return status


def _tell(processes: Sequence[int], number: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def redis_server() -> Iterator[str | None]:
    """Run a Redis that keeps nothing on disk, and give its URL; None where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with closing(socket.socket()) as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()
