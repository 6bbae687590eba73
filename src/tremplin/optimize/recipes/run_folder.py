"""The folder of one optimising run: what it does, how far it is, what came of it.

    <data>/runs/<name>/run.json    state, step, share, time left: what a page or a terminal shows
                       study.json  the result (study.py)
                       stages/, versions/

``run.json`` is replaced as a whole, at most twice a second. A run whose process is gone is *stopped*: the same
command goes on with it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tremplin.errors import BadInput, TremplinError
from tremplin.progress import Progress
from tremplin.registry.files import write_atomically
from tremplin.registry.manifest import is_name

RUN_FILE, LOCK_FILE, STUDY_FILE = "run.json", "run.lock", "study.json"
WRITE_EVERY_S = 0.5


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    STOPPED = "stopped"
    """Its process is gone before the end; the same command goes on with it."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """What ``run.json`` says."""

    name: str
    state: RunState
    command: str
    """What started it, and goes on with it."""
    source: str
    """The version it began with."""
    started_at: str
    updated_at: str
    step: str = ""
    share: float = 0.0
    seconds_left: float | None = None
    error: str = ""
    published: tuple[str, ...] = ()
    """Versions it published."""


class RunFolder:
    """One run's place on disk."""

    def __init__(self, runs: Path, name: str) -> None:
        """Name a run; raises BadInput when the name cannot be a folder's."""
        if not is_name(name):
            raise BadInput(
                f"{name!r} cannot name a run: use lower-case letters, digits, '.', '_' and '-', such as 'intents'."
            )
        self.path = runs / name
        self.name = name

    @contextmanager
    def working(self, command: str, source: str, shown: Progress) -> Iterator[Progress]:
        """Hold the run while it is worked; what is told is shown and kept. Raises BadInput when it is held."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput(
                    f"The run {self.name!r} is being worked by another process. Wait for it, or name another one."
                ) from None
            teller = _Teller(self, Run(self.name, RunState.RUNNING, command, source, _now(), _now()), shown)
            try:
                yield teller
            except TremplinError as error:
                teller.end(RunState.FAILED, error=str(error))
                raise
            except BaseException:
                teller.end(RunState.STOPPED)
                raise
            teller.end(RunState.DONE)

    def read(self) -> Run | None:
        """Return what is known of the run; one that says it runs although nobody holds it was stopped."""
        try:
            run = _RUN.validate_json((self.path / RUN_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        if run.state is RunState.RUNNING and not self._is_held():
            return replace(run, state=RunState.STOPPED)
        return run

    def add_published(self, refs: tuple[str, ...]) -> None:
        """Note versions that were published from the run."""
        run = self.read()
        if run is not None:
            self.write(replace(run, published=tuple(dict.fromkeys((*run.published, *refs)))))

    def write(self, run: Run) -> None:
        """Replace ``run.json``."""
        write_atomically(self.path / RUN_FILE, _RUN.dump_json(run, indent=1))

    def _is_held(self) -> bool:
        try:
            with (self.path / LOCK_FILE).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def list_runs(runs: Path) -> list[Run]:
    """Return all runs, the one touched last first."""
    names = sorted(os.listdir(runs)) if runs.is_dir() else []
    found = [run for name in names if is_name(name) and (run := RunFolder(runs, name).read()) is not None]
    return sorted(found, key=lambda run: run.updated_at, reverse=True)


class _Teller:
    """Shows progress and keeps it."""

    def __init__(self, folder: RunFolder, run: Run, shown: Progress) -> None:
        self._folder, self._run, self._shown = folder, run, shown
        self._started, self._written = time.monotonic(), 0.0
        folder.write(run)

    def __call__(self, step: str, share: float) -> None:
        self._shown(step, share)
        now = time.monotonic()
        if now - self._written < WRITE_EVERY_S:
            return
        self._written = now
        spent = now - self._started
        left = spent * (1 - share) / share if share > 0.02 else None
        self._run = replace(self._run, step=step, share=share, seconds_left=left, updated_at=_now())
        self._folder.write(self._run)

    def end(self, state: RunState, *, error: str = "") -> None:
        share = 1.0 if state is RunState.DONE else self._run.share
        self._folder.write(
            replace(self._run, state=state, error=error, share=share, seconds_left=None, updated_at=_now())
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


_RUN = TypeAdapter(Run)
