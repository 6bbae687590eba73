"""From a version to a folder of files for another runtime, kept only when it answers as the version does.

Everything is written in a folder beside, checked there, and appears by one rename: whoever looks finds the whole
export or none.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

from tremplin import __version__
from tremplin.errors import BadInput, OptimizeFailed, PassFailed, TremplinError
from tremplin.machine import usable_cores
from tremplin.optimize.targets.parity import (
    TargetParity,
    check_parity,
    parity_batches,
    parity_rows,
    tolerance_of,
)
from tremplin.optimize.targets.target import GRAPH_FILE, Target, Written
from tremplin.optimize.texts import EvaluationTexts
from tremplin.progress import Progress, silent
from tremplin.registry.files import copy_durably, sha256_of, sync_folder
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.serve.engines.failures import what_it_said
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

EXPORT_FILE = "export.json"

# An export holds about what the graph holds; the tokenizer and what a converter writes in between come on top.
ROOM = 2
FULL_BYTES = 1 << 20  # less than this is left on a disk that a converter has filled


@dataclass(frozen=True)
class ExportedFile:
    """One file of an export."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Exported:
    """An export that was written and proven; ``export.json`` holds the same."""

    version: str
    target: str
    folder: str
    files: tuple[ExportedFile, ...]
    parity: TargetParity
    computes: str
    notes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but ``export.json``."""
        return sum(file.size_bytes for file in self.files)


def export_version(
    registry: Registry,
    manifest: Manifest,
    target: Target,
    folder: Path,
    texts: EvaluationTexts,
    *,
    command: str,
    progress: Progress = silent,
) -> Exported:
    """Write a version for a target into ``folder``, which must be empty or not there, and return what was written.

    ``command`` is how to do it again; it is kept in ``export.json``. Raises BadInput for a folder that cannot be
    used, MissingExtra when a tool is missing, PassFailed when the target does not take the graph or answers
    otherwise, OptimizeFailed when the files cannot be written, DamagedArtefact. Nothing is left behind then.
    """
    folder = folder.resolve()
    check_folder(folder)
    if not any(artefact.name == MODEL_FILE for artefact in manifest.artefacts):
        raise BadInput(
            f"{manifest.ref} has no graph ({MODEL_FILE}) that could be exported; "
            f"it consists of {', '.join(artefact.name for artefact in manifest.artefacts) or 'nothing'}."
        )
    source, tokenizer = registry.path(manifest, MODEL_FILE), registry.path(manifest, TOKENIZER_FILE)
    with tempfile.TemporaryDirectory(prefix="tremplin-") as scratch:
        graph = Path(scratch) / GRAPH_FILE
        graph.symlink_to(source.resolve())
        target.check(graph)
        with _staged(folder, manifest.artefact(MODEL_FILE).size_bytes) as aside:
            progress(f"write for {target.name}", 0.1)
            written = _write(target, graph, aside)
            progress("compare with ONNX Runtime", 0.4)
            parity = _compare(target, aside, manifest, source, tokenizer, texts, progress)
            copy_durably(tokenizer, aside / TOKENIZER_FILE)
            exported = Exported(
                version=manifest.ref,
                target=target.name,
                folder=str(folder),
                files=_files(aside),
                parity=parity,
                computes=written.computes,
                notes=written.notes,
            )
            _write_export_file(aside / EXPORT_FILE, exported, written, manifest, target, command)
            _appear(aside, folder)
    return exported


def check_folder(folder: Path) -> None:
    """Raise BadInput when an export cannot become ``folder``: it is a file, or something is in it."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; name a folder that is empty or not there yet.")
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty; an export would mix with what is there. Name another folder.")


def _write(target: Target, graph: Path, folder: Path) -> Written:
    try:
        return target.write(graph, folder)
    except (TremplinError, OSError):
        raise
    except Exception as error:  # converters raise classes of their own, on a full disk too
        if shutil.disk_usage(folder).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise PassFailed(f"{target.runtime} does not take the graph: {what_it_said(error)}.") from error


def _compare(
    target: Target,
    folder: Path,
    manifest: Manifest,
    graph: Path,
    tokenizer: Path,
    texts: EvaluationTexts,
    progress: Progress,
) -> TargetParity:
    interface = manifest.interface
    rows = parity_rows(TextTokenizer(tokenizer, interface), interface, texts)
    batches = parity_batches(rows, target.largest)
    reference = OnnxRuntimeEngine(graph, threads=usable_cores()[0], narrow_weights=manifest.narrow_weights)
    reference.load()
    try:
        run = target.open(folder)
    except (TremplinError, OSError):
        raise
    except Exception as error:  # runtimes raise classes of their own
        raise PassFailed(
            f"{target.runtime} does not open what was written for it: {what_it_said(error)}."
        ) from error
    return check_parity(
        run,
        reference,
        batches,
        runtime=target.runtime,
        texts=texts.name,
        tolerance=tolerance_of(manifest.precision, is_half=target.is_half),
        multi_label=interface.multi_label,
        watch=lambda done: progress("compare with ONNX Runtime", 0.4 + 0.5 * done / len(batches)),
    )


def _files(folder: Path) -> tuple[ExportedFile, ...]:
    """Return the files of a folder, flushed to the disk: a converter may leave that to the system."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
            found.append(ExportedFile(str(path.relative_to(folder)), sha256_of(path), path.stat().st_size))
    return tuple(found)


def _write_export_file(
    path: Path, exported: Exported, written: Written, manifest: Manifest, target: Target, command: str
) -> None:
    interface = manifest.interface
    libraries = ("numpy", "onnx", "onnxruntime", "tokenizers")
    told: dict[str, object] = {
        "version": manifest.ref,
        "model_sha256": manifest.artefact(MODEL_FILE).sha256,
        "tokenizer_sha256": manifest.artefact(TOKENIZER_FILE).sha256,
        "precision": manifest.precision,
        "task": interface.task.value,
        "max_tokens": interface.max_tokens,
        "labels": interface.labels,
        "target": exported.target,
        "computes": exported.computes,
        "files": [asdict(file) for file in exported.files],
        "parity": asdict(exported.parity),
        "run_with": dict(written.run_with),
        "notes": exported.notes,
        "tools": {**_versions(libraries), **target.tools},
        "command": command,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with path.open("w", encoding="utf-8") as stream:
        json.dump(told, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    return {"tremplin": __version__} | {name: installed(name) for name in libraries}


@contextmanager
def _staged(folder: Path, graph_bytes: int) -> Iterator[Path]:
    """A folder to write in, on the disk of ``folder``, removed afterwards; I/O errors become OptimizeFailed."""
    place = next(parent for parent in folder.parents if parent.is_dir())
    aside: Path | None = None
    try:
        if shutil.disk_usage(place).free < ROOM * graph_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        aside = Path(tempfile.mkdtemp(dir=place, prefix=".tremplin-export-"))
        yield aside
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise OptimizeFailed(
            f"Nothing was exported: {reason} while writing under {place}. "
            f"About {ROOM * graph_bytes / 1e6:.0f} MB are needed; free space or name another folder."
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _appear(aside: Path, folder: Path) -> None:
    aside.chmod(0o755)  # mkdtemp's folders are their owner's alone
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(aside, folder)  # onto an empty folder too
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BadInput(f"{folder} was filled by somebody else meanwhile. Name another folder.") from None
        raise
    sync_folder(folder.parent)
