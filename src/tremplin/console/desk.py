"""Where runs are begun, stopped, gone on with and published from; one is worked at a time.

A run is a command in a process of its own: it outlives the request, the page and the server.

    <data>/runs/<name>/upload/<field>/   the files that came with the form, as UTF-8
                       order.json        the command line; written by the console alone
                       attempt.json      the process that works it, or did last
                       log.txt           what it prints
                       run.json ...      its own (optimize/recipes/run_folder.py)
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from tremplin.console.contexts import StateOfRun
from tremplin.console.orders import FILES, Refused, RunOrder, read_order
from tremplin.console.processes import Launcher, Process
from tremplin.console.uploads import SentFile, SentForm, keep_text
from tremplin.errors import OptimizeFailed, TrainingRefused
from tremplin.optimize.recipes.run_folder import Run, RunFolder, RunState
from tremplin.registry.files import locked, write_atomically
from tremplin.registry.manifest import Manifest, is_name
from tremplin.registry.store import Registry
from tremplin.registry.task import Task

ORDER_FILE, ATTEMPT_FILE, LOG_FILE = "order.json", "attempt.json", "log.txt"
UPLOAD = "upload"
PROGRAM = (sys.executable, "-m", "tremplin")

STOP_PATIENCE_S = 3.0
"""How long a request waits for a run that was asked to stop; the page shows it later if it takes longer."""
ABANDONED_AFTER_S = 3600
"""Uploads that were cut off, by a server that ended in the middle of one, are removed after this long."""
LOG_BYTES, LOG_LINES, LOG_CHARACTERS = 8192, 12, 240

PublishFromRun = Callable[[Registry, Path, str], Manifest]
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Attempt:
    """One process that works a run."""

    process: Process
    since: str
    was_stopped: bool = False
    """Whether somebody asked it to stop."""


@dataclass(frozen=True)
class KnownRun:
    """What is known of a run."""

    name: str
    folder: Path
    state: StateOfRun
    run: Run | None
    """What it says itself; None before its first word."""
    since: str
    """When it was begun, this time."""
    is_ours: bool
    """Whether a process that the console started is working it."""
    arguments: tuple[str, ...]
    """The command line without its program; empty when it was not started here."""
    error: str

    @property
    def is_active(self) -> bool:
        """Whether it is being worked."""
        return self.is_ours or self.state in {"starting", "running"}

    @property
    def command(self) -> str:
        """What a reader can type to go on with it."""
        if self.arguments:
            return f"tremplin {shlex.join(self.arguments)}"
        return self.run.command if self.run is not None else ""


def has_torch() -> bool:
    """Return whether what trains is installed, without loading it: it takes 200 MB and a second."""
    return find_spec("torch") is not None


@dataclass(frozen=True)
class RunDesk:
    """The runs of one data folder."""

    runs: Path
    registry: Registry
    launcher: Launcher
    publish_version: PublishFromRun
    """Publishes one version of the run in a folder, by its name in the study."""
    options: Sequence[str] = ()
    """What every command gets: where the data lies."""
    max_upload_bytes: int = 8_000_000
    """Of all files of one form together."""
    can_train: Callable[[], bool] = has_torch

    # -- looking -----------------------------------------------------------------------------------

    def all(self) -> list[KnownRun]:
        """Return every run, the one touched last first."""
        names = os.listdir(self.runs) if self.runs.is_dir() else []
        found = [known for name in names if (known := self.find(name)) is not None]
        return sorted(found, key=lambda known: (_touched(known), known.name), reverse=True)

    def find(self, name: str) -> KnownRun | None:
        """Return a run, or None when there is none of this name."""
        if not is_name(name):
            return None
        folder = RunFolder(self.runs, name)
        run, attempt = folder.read(), _read(_ATTEMPT, folder.path / ATTEMPT_FILE)
        if run is None and attempt is None:
            return None
        is_ours = attempt is not None and self.launcher.is_running(attempt.process)
        state = _state(run, attempt, is_ours=is_ours)
        return KnownRun(
            name=name,
            folder=folder.path,
            state=state,
            run=run,
            since=attempt.since if attempt is not None else "",
            is_ours=is_ours,
            arguments=_read(_ARGUMENTS, folder.path / ORDER_FILE) or (),
            error=_error(folder.path, run, attempt) if state == "failed" else "",
        )

    def busy(self) -> str:
        """Return the name of the run that is being worked; empty when there is none."""
        return next((known.name for known in self.all() if known.is_active), "")

    def models(self) -> tuple[str, ...]:
        """Return the versions a run can start from: encoders in fp32, the newest of each model first."""
        return tuple(
            manifest.ref
            for model in self.registry.models()
            for manifest in reversed(self.registry.versions(model))
            if manifest.precision == "fp32" and manifest.interface.task is Task.EMBEDDING
        )

    # -- doing -------------------------------------------------------------------------------------

    def start(self, form: SentForm) -> str:
        """Begin the run that a form asks for and return its name; raises Refused with the field to correct."""
        order = read_order(form.fields, self.models())
        self._check_torch()
        self._check_name(order.name)
        self._check_idle()
        if "labelled" not in form.files:
            raise Refused("no_file", "labelled")
        self.runs.mkdir(parents=True, exist_ok=True)
        with self._aside() as aside:
            with _disk_errors():
                kept = {field: _kept(form.files[field], aside) for field in FILES if field in form.files}
            _check_texts(order, kept)
            with self._alone():
                self._check_name(order.name)
                self._check_idle()
                folder = self.runs / order.name
                folder.mkdir()
                aside.rename(folder / UPLOAD)
                moved = {field: folder / UPLOAD / path.relative_to(aside) for field, path in kept.items()}
                arguments = (*replace(order, files=moved).arguments(), "--json", *self.options)
                write_atomically(folder / ORDER_FILE, _ARGUMENTS.dump_json(arguments))
                self._launch(folder, arguments)
        return order.name

    def go_on(self, known: KnownRun) -> None:
        """Start the command of a run again: what it finished is not worked twice."""
        if not known.arguments:
            raise Refused("not_ours")
        self._check_torch()
        with self._alone():
            self._check_idle()
            now = self.find(known.name)
            if now is not None and now.state in {"stopped", "failed"}:
                self._launch(now.folder, now.arguments)

    def stop(self, known: KnownRun) -> None:
        """Ask a run to stop, and wait a moment for it."""
        attempt = _read(_ATTEMPT, known.folder / ATTEMPT_FILE)
        if attempt is None or not self.launcher.is_running(attempt.process):
            if known.state == "running":
                raise Refused("not_ours")
            return
        write_atomically(known.folder / ATTEMPT_FILE, _ATTEMPT.dump_json(replace(attempt, was_stopped=True)))
        self.launcher.stop(attempt.process)
        deadline = time.monotonic() + STOP_PATIENCE_S
        while self.launcher.is_running(attempt.process) and time.monotonic() < deadline:
            time.sleep(0.05)

    def publish(self, known: KnownRun, version: str) -> None:
        """Publish a version of a run's study and measure it; nothing when it is published already."""
        with self._alone():
            self._check_idle()  # training would spoil the measurement, and the measurement the training
            now = self.find(known.name)
            if now is None or now.run is None or now.state != "done":
                raise Refused("not_ready")
            if not published_as(version, now.run.published):
                manifest = self.publish_version(self.registry, known.folder, version)
                RunFolder(self.runs, known.name).add_published((manifest.ref,))

    def _launch(self, folder: Path, arguments: Sequence[str]) -> None:
        since = datetime.now(UTC).isoformat(timespec="milliseconds")
        process = self.launcher.start([*PROGRAM, *arguments], folder / LOG_FILE)
        write_atomically(folder / ATTEMPT_FILE, _ATTEMPT.dump_json(Attempt(process, since)))

    def _check_idle(self) -> None:
        if busy := self.busy():
            raise Refused("busy", name=busy)

    def _check_torch(self) -> None:
        if not self.can_train():
            raise Refused("no_torch")

    def _check_name(self, name: str) -> None:
        if (self.runs / name).exists():
            raise Refused("name_taken", "name", name=name)
        known = self.registry.versions(name)
        if known and known[-1].interface.task is not Task.CLASSIFICATION:
            raise Refused("name_is_model", "name", name=name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other requests, also those of other workers, from starting something in the same instant."""
        with locked(self.runs / ".desk.lock"):
            yield

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """Lend a folder for an upload; it is removed unless somebody gave it another name."""
        for left in self.runs.glob(".upload-*"):
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=".upload-", dir=self.runs))
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def published_as(version: str, refs: Sequence[str]) -> str:
    """Return the newest of a run's published versions that was made of this one; empty when there is none.

    >>> published_as("small", ("intents@1-fp32", "intents@2-small-int8"))
    'intents@2-small-int8'
    """
    endings = {f"{version}-int8", f"{version}-fp32"} if version != "reference" else {"int8", "fp32"}
    return next((ref for ref in reversed(refs) if ref.partition("@")[2].partition("-")[2] in endings), "")


def log_of(folder: Path) -> tuple[str, ...]:
    """Return the last lines that a run printed."""
    try:
        with (folder / LOG_FILE).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(line[:LOG_CHARACTERS] for line in lines[-LOG_LINES:] if line.strip())


def _state(run: Run | None, attempt: Attempt | None, *, is_ours: bool) -> StateOfRun:
    """Return where a run stands, from what it says itself and from the process that is to work it."""
    if run is not None and run.state is RunState.RUNNING:
        return "running"
    if run is not None and _is_of(run, attempt):
        return run.state.value
    if is_ours:
        return "starting"
    return "stopped" if attempt is not None and attempt.was_stopped else "failed"


def _is_of(run: Run, attempt: Attempt | None) -> bool:
    """Return whether a run's last word is that of the last process, and not of one before it."""
    return attempt is None or run.started_at >= attempt.since


def _error(folder: Path, run: Run | None, attempt: Attempt | None) -> str:
    """Return why a run failed: what it says, else the last sentence it printed before it could say anything."""
    if run is not None and _is_of(run, attempt):
        return run.error
    said = [line for line in log_of(folder) if line.startswith("tremplin: ")]
    return said[-1].removeprefix("tremplin: ") if said else ""


def _touched(known: KnownRun) -> str:
    return max(known.run.updated_at if known.run is not None else "", known.since)


def _kept(sent: SentFile, aside: Path) -> Path:
    return keep_text(sent, aside / sent.field, other_suffix=".txt" if sent.field == "out_of_scope" else ".csv")


def _check_texts(order: RunOrder, kept: Mapping[str, Path]) -> None:
    """Read the files as the run will: a wrong column is told now, not in a log after a minute."""
    from tremplin.optimize.recipes.corpus import read_corpus

    try:
        read_corpus(
            kept["labelled"],
            test=kept.get("test"),
            out_of_scope=kept.get("out_of_scope"),
            text_column=order.text_column,
            label_column=order.label_column,
        )
    except (TrainingRefused, OptimizeFailed) as error:
        detail = str(error).replace(f"{kept['labelled'].parent.parent}{os.sep}", "")
        where = next((field for field, path in kept.items() if path.name in detail), "labelled")
        raise Refused("unusable", where, detail=detail) from None


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise Refused("no_room") from None


def _read(adapter: TypeAdapter[Kept], path: Path) -> Kept | None:
    try:
        return adapter.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


_ATTEMPT = TypeAdapter(Attempt)
_ARGUMENTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])
