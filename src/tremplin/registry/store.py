"""The registry: versions in a folder, addressed by content, published whole or not at all.

objects/ab/ab12...            artefacts, one file per content, shared between versions
models/<model>/<version>/     manifest.json, manifest.sig, speed/<machine>-<engine>-<threads>t.json
staging/                      what is being written; what a killed process left there goes after a day
"""

from __future__ import annotations

import errno
import hmac
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tremplin.errors import DamagedArtefact, NotServable, PublishFailed, UnknownVersion
from tremplin.registry.files import copy_durably, secret_in, sha256_of, sync_folder, write_atomically
from tremplin.registry.manifest import Artefact, Manifest, dump_manifest, is_name, load_manifest
from tremplin.registry.passport import Speed

_SPEED = TypeAdapter(Speed)

DEFAULT_ENGINE = "onnxruntime"

ABANDONED_AFTER_S = 24 * 3600  # no publication takes this long


class Registry:
    """Versions in one folder. Several processes may read; publishing takes no lock, the rename decides."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "objects"
        self._models = root / "models"
        self._staging = root / "staging"
        for folder in (self._objects, self._models, self._staging):
            folder.mkdir(parents=True, exist_ok=True)
        # It proves that a manifest was published through this registry and not edited since. It does not protect
        # against someone who can read the folder; a key kept elsewhere comes with the shared registry.
        self._key = secret_in(root / "signing.key")
        _remove_abandoned(self._staging)

    # -- reading -------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Return the names of all models, sorted."""
        return sorted(
            folder.name for folder in self._models.iterdir() if folder.is_dir() and any(folder.iterdir())
        )

    def versions(self, model: str) -> list[Manifest]:
        """Return the versions of a model, oldest first; empty when the model is unknown."""
        folder = self._models / model
        if not is_name(model) or not folder.is_dir():
            return []
        found = [self.get(model, entry.name) for entry in folder.iterdir() if is_name(entry.name)]
        return sorted(found, key=lambda manifest: _version_number(manifest.version))

    def get(self, model: str, version: str) -> Manifest:
        """Return one manifest.

        Raises UnknownVersion when there is none, DamagedArtefact when it is not what was signed.
        """
        folder = self._models / model / version
        if not (is_name(model) and is_name(version)):
            raise UnknownVersion(f"{model!r}@{version!r} is not a version's name; `tremplin report` lists them.")
        try:
            payload = (folder / "manifest.json").read_bytes()
            signature = (folder / "manifest.sig").read_text()
        except FileNotFoundError:
            known = ", ".join(m.version for m in self.versions(model)) if folder.parent.is_dir() else ""
            hint = f"known versions: {known}" if known else "import it first: `tremplin import`"
            raise UnknownVersion(f"There is no version {version!r} of model {model!r}; {hint}.") from None
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise DamagedArtefact(
                f"The manifest of {model}@{version} differs from what was signed when it was published. "
                "Publish the version again, or restore the registry from a backup."
            )
        try:
            manifest = load_manifest(payload)
        except ValidationError as error:
            raise DamagedArtefact(
                f"The manifest of {model}@{version} was written by another release of Tremplin "
                f"({error.error_count()} fields differ). Import the model again."
            ) from None
        if (manifest.model, manifest.version) != (model, version):
            raise DamagedArtefact(
                f"The folder of {model}@{version} holds the manifest of {manifest.ref}. Remove the folder: "
                "a version cannot be renamed."
            )
        return manifest

    def latest(self, model: str) -> Manifest:
        """Return the newest version of a model; raises UnknownVersion when it has none."""
        versions = self.versions(model)
        if not versions:
            known = ", ".join(self.models()) or "none yet"
            raise UnknownVersion(f"There is no model {model!r} in the registry; known models: {known}.")
        return versions[-1]

    def resolve(self, ref: str) -> Manifest:
        """Return the version named ``model`` (its newest) or ``model@version``."""
        model, _, version = ref.partition("@")
        return self.get(model, version) if version else self.latest(model)

    def path(self, manifest: Manifest, name: str, *, verify: bool = True) -> Path:
        """Return the file of an artefact, its digest checked first.

        Raises DamagedArtefact when the file is missing or its bytes differ from the manifest.
        """
        artefact = manifest.artefact(name)
        path = self._object(artefact.sha256)
        if not path.is_file():
            raise DamagedArtefact(
                f"{name} of {manifest.ref} is missing from the registry. Publish the version again."
            )
        if verify and (path.stat().st_size != artefact.size_bytes or sha256_of(path) != artefact.sha256):
            raise DamagedArtefact(
                f"{name} of {manifest.ref} is damaged: its bytes differ from the digest in the manifest "
                f"({artefact.sha256[:12]}...). Publish the version again, or restore a backup."
            )
        return path

    # -- publishing ----------------------------------------------------------------------------

    def next_version(self, model: str, suffix: str) -> str:
        """Return the name the next version of a model would get: ``3-int8`` after ``2-int8``."""
        folder = self._models / model
        numbers = [_version_number(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
        return f"{max(numbers, default=0) + 1}-{suffix}"

    def publish(self, manifest: Manifest, files: Mapping[str, Path]) -> Manifest:
        """Store the files and the manifest, and return the manifest with its artefacts filled in.

        Everything is written aside, flushed, and appears by one rename: a reader sees the whole version or
        none. Raises PublishFailed when the disk is full or not writable; then nothing was published.
        """
        if not (is_name(manifest.model) and is_name(manifest.version)):
            raise PublishFailed(
                f"{manifest.ref!r} cannot name a version: use lower-case letters, digits, '.', '_' and '-', "
                "at most 64 characters."
            )
        target = self._models / manifest.model / manifest.version
        if target.exists():
            raise _exists(manifest)
        with self._staged() as staging:
            complete = replace(
                manifest,
                artefacts=tuple(self._store(name, path, staging) for name, path in files.items()),
            )
            payload = dump_manifest(complete)
            aside = staging / "version"
            aside.mkdir()
            write_atomically(aside / "manifest.json", payload)
            write_atomically(aside / "manifest.sig", self._sign(payload).encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(aside, target)
            except OSError:
                if target.exists():  # another process was faster
                    raise _exists(manifest) from None
                raise
            sync_folder(target.parent)
        return complete

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A folder to write in, removed afterwards; I/O errors become PublishFailed."""
        staging: Path | None = None
        try:
            staging = Path(tempfile.mkdtemp(dir=self._staging))
            yield staging
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
            raise PublishFailed(
                f"Nothing was published: {reason} while writing under {self.root}. "
                "Free space or choose another folder with --data, then run the command again."
            ) from error
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)

    def _store(self, name: str, source: Path, staging: Path) -> Artefact:
        """Copy one file into the objects; a content that is already there is not written twice."""
        aside = staging / name
        digest = copy_durably(source, aside)
        size = aside.stat().st_size
        target = self._object(digest)
        if not target.exists() or sha256_of(target) != digest:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside, target)
            sync_folder(target.parent)
        return Artefact(name=name, sha256=digest, size_bytes=size)

    # -- speed, which belongs to a machine -------------------------------------------------------

    def speed(
        self, manifest: Manifest, machine_id: str, threads: int, engine: str = DEFAULT_ENGINE
    ) -> Speed | None:
        """Return what was measured of a version with an engine on this machine, or None."""
        return _read_speed(self._speed_file(manifest, machine_id, threads, engine))

    def record_speed(self, manifest: Manifest, speed: Speed, engine: str = DEFAULT_ENGINE) -> None:
        """Keep what was measured; an older measurement of the same machine, engine and threads is replaced."""
        path = self._speed_file(manifest, speed.machine.id, speed.threads, engine)
        write_atomically(path, _SPEED.dump_json(speed, indent=1))

    def speeds(self, manifest: Manifest) -> list[Speed]:
        """Return every speed kept for a version, on all machines."""
        folder = self._models / manifest.model / manifest.version / "speed"
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return [speed for file in files if (speed := _read_speed(file)) is not None]

    def _speed_file(self, manifest: Manifest, machine_id: str, threads: int, engine: str) -> Path:
        folder = self._models / manifest.model / manifest.version / "speed"
        return folder / f"{machine_id}-{engine}-{threads}t.json"

    # -- places ----------------------------------------------------------------------------------

    def _object(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest

    def _sign(self, payload: bytes) -> str:
        return hmac.new(self._key, payload, "sha256").hexdigest()


def _exists(manifest: Manifest) -> PublishFailed:
    return PublishFailed(f"{manifest.ref} exists already; versions never change. Choose another name.")


def _read_speed(file: Path) -> Speed | None:
    """Return a measurement; None when there is none, or another release wrote it: it can be measured again."""
    try:
        return _SPEED.validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _remove_abandoned(staging: Path) -> None:
    """Remove what killed processes left; younger folders may belong to a process that is still writing."""
    for folder in staging.iterdir():
        with suppress(FileNotFoundError):  # its owner was faster
            if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)


def check_servable(manifest: Manifest, *, forced: bool = False) -> tuple[str, ...]:
    """Return the bounds a version breaks; empty when its evidence holds.

    Raises NotServable when there are some and the version was not forced by name.
    """
    broken = manifest.quality.broken_bounds()
    if broken and not forced:
        raise NotServable(
            f"{manifest.ref} misses its quality bound: {'; '.join(broken)}. "
            f"Serve another version, or force this one by name: --force {manifest.ref}"
        )
    return broken


def _version_number(name: str) -> int:
    digits = name.split("-", 1)[0]
    return int(digits) if digits.isdigit() else 0
