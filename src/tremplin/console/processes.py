"""Commands that outlive the request that started them: begun, recognised again, asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NICENESS = 10
"""What a run steps back behind serving."""
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process, so described that another one under the same number is not taken for it."""

    pid: int
    began: str
    """When, as the system writes it; empty when it was gone before it could be asked."""


class Launcher(Protocol):
    """Starts commands and finds them again, also from another process than the one that started them."""

    def start(self, command: Sequence[str], log: Path) -> Process:
        """Start a command whose output is added to ``log``; raises OSError when it cannot be started."""
        ...

    def is_running(self, process: Process) -> bool:
        """Return whether exactly this process is still there."""
        ...

    def stop(self, process: Process) -> None:
        """Ask it to end, and what it started with it; nothing when it is gone."""
        ...


class DetachedLauncher:
    """Real processes: in a session of their own, so that they outlive the server, and behind it in priority."""

    def start(self, command: Sequence[str], log: Path) -> Process:
        """Start a command."""
        with log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603 (our own arguments, no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began = _began(child.pid)
        # At once: threads that it starts later take over the priority of the one it has now.
        os.setpriority(os.PRIO_PROCESS, child.pid, NICENESS)
        # Somebody must hear of its end, or it would stay in the process table as long as the server lives.
        threading.Thread(target=child.wait, name=f"run-{child.pid}", daemon=True).start()
        return Process(child.pid, began)

    def is_running(self, process: Process) -> bool:
        """Return whether the process is still there, going by its number and when it began."""
        return process.began != "" and _began(process.pid) == process.began

    def stop(self, process: Process) -> None:
        """Send SIGTERM to the process and its children."""
        if not self.is_running(process):
            return
        with contextlib.suppress(ProcessLookupError):  # it may end by itself in this instant
            os.killpg(process.pid, signal.SIGTERM)


def _began(pid: int) -> str:
    """Return when a process began, in the words of the system; empty when there is none, or only its remains."""
    if (PROC / "self").exists():
        try:
            # The name in brackets may hold anything, also brackets; what follows are numbers (man 5 proc).
            fields = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    asked = ["ps", "-o", "lstart=", "-p", str(pid)]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 (our own arguments)
    return told.stdout.strip()
