"""The manifest: what a version is, in one signed file.

A version is a set of artefacts named by their content. The manifest is frozen when it is published;
what is learned later (speed on another machine) is kept beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import TypeAdapter

from tremplin.registry.passport import Quality
from tremplin.registry.task import Task

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"

# A name becomes a folder and a path segment of an address, so it is kept to what both take everywhere.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True)
class Artefact:
    """One file of a version, addressed by its content."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Origin:
    """Where a version comes from: a checkpoint, or another version through a recipe."""

    source: str
    """A Hub id, a folder, a package, or ``model@version``."""
    architecture: str
    weights_sha256: str = ""
    revision: str = ""
    recipe: tuple[str, ...] = ()
    """The passes that made it, in order, with their options."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interface:
    """What goes into the graph and what comes out, all that serving needs to know."""

    task: Task
    max_tokens: int
    vocab_size: int
    embedding_dim: int | None = None
    needs_token_type_ids: bool = False
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    abstain_below: float | None = None
    """A classifier answers "I do not know" when its best calibrated probability is below this."""


@dataclass(frozen=True)
class Manifest:
    """One version of a model."""

    model: str
    version: str
    precision: str
    interface: Interface
    origin: Origin
    artefacts: tuple[Artefact, ...]
    quality: Quality
    narrow_weights: bool = False
    """No sum of two products of its int8 weights overflows 16 bits, so every x86 CPU may use its fast kernels."""
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    report: dict[str, object] = field(default_factory=dict)
    """Evidence particular to the way it was made: a per-class table, the candidates that lost."""

    @property
    def ref(self) -> str:
        """``model@version``, the name used in logs, CLI and console."""
        return f"{self.model}@{self.version}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all artefacts."""
        return sum(artefact.size_bytes for artefact in self.artefacts)

    def artefact(self, name: str) -> Artefact:
        """Return the artefact of this name; a manifest without it is a bug."""
        return next(artefact for artefact in self.artefacts if artefact.name == name)

    def renamed(self, version: str) -> Manifest:
        """Return this manifest under another version name."""
        return replace(self, version=version)


_ADAPTER = TypeAdapter(Manifest)


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as JSON, the bytes that are signed."""
    return _ADAPTER.dump_json(manifest, indent=1)


def load_manifest(payload: bytes) -> Manifest:
    """Return the manifest written in ``payload``; raises pydantic's ValidationError when it is not one."""
    return _ADAPTER.validate_json(payload)


def is_name(text: str) -> bool:
    """Return whether ``text`` can name a model or a version."""
    return NAME.fullmatch(text) is not None
