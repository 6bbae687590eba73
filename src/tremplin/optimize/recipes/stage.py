"""A stage: what a recipe has made so far, in a folder of its own.

    <run>/stages/<key>/   model.onnx, tokenizer.json, stage.json

The key is a digest of everything that decides the content: the version it began with, the corpus, the seed, the
steps up to here and their options. Recipes that begin with the same steps share their stages, and a run that was
stopped finds those it has. A stage appears by one rename: half a stage is never found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tremplin.optimize.network.from_graph import read_network
from tremplin.optimize.network.network import Network
from tremplin.registry.files import write_atomically
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Interface

STAGE_FILE = "stage.json"
# Raised when a step's arithmetic changes, so that stages of an older release are not taken for its own.
CODE_EDITION = 1


@dataclass(frozen=True)
class StageRecord:
    """What is known of a stage beside its files."""

    step: str
    """The step that made it, with its options, as reports print it."""
    interface: Interface
    is_trainable: bool
    """Whether its graph is a float network that further steps can change."""
    narrow_weights: bool = False
    is_quantized: bool = False
    notes: tuple[str, ...] = ()
    curve: dict[str, Any] | None = None
    """The learning curve (``loop.Training``), when the step trained."""
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """A finished stage."""

    key: str
    folder: Path
    record: StageRecord
    lineage: tuple[StageRecord, ...] = ()
    """The records of all stages before and of this one."""
    teacher: Stage | None = None
    """The stage that later ones learn from, and are compared with."""

    @property
    def graph(self) -> Path:
        """Its ONNX file."""
        return self.folder / MODEL_FILE

    @property
    def tokenizer(self) -> Path:
        """Its tokenizer."""
        return self.folder / TOKENIZER_FILE

    @property
    def interface(self) -> Interface:
        """What goes into its graph and what comes out."""
        return self.record.interface

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that led here."""
        return tuple(record.step for record in self.lineage)

    def network(self) -> Network:
        """Return its network; raises PassFailed for a quantized stage."""
        return read_network(self.graph, self.interface.labels)

    @property
    def size_bytes(self) -> int:
        """Bytes of graph and tokenizer."""
        return self.graph.stat().st_size + self.tokenizer.stat().st_size


def stage_key(parent: str, step: str, options: Mapping[str, object], corpus_sha256: str, seed: int) -> str:
    """Return the key of the stage that a step makes out of another one."""
    content = json.dumps([CODE_EDITION, parent, step, options, corpus_sha256, seed], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def find_stage(folder: Path, key: str, parent: Stage | None) -> Stage | None:
    """Return a stage that is there already, or None."""
    path = folder / key
    try:
        record = _RECORD.validate_json((path / STAGE_FILE).read_bytes())
    except FileNotFoundError:
        return None
    return _linked(Stage(key, path, record), parent)


def keep_stage(aside: Path, folder: Path, key: str, record: StageRecord, parent: Stage | None) -> Stage:
    """Give a finished folder its name and return the stage; ``aside`` holds its files."""
    write_atomically(aside / STAGE_FILE, json.dumps(asdict(record), ensure_ascii=False, indent=1).encode())
    target = folder / key
    if target.exists():
        shutil.rmtree(target)
    os.rename(aside, target)
    return _linked(Stage(key, target, record), parent)


def _linked(stage: Stage, parent: Stage | None) -> Stage:
    if parent is None:
        return replace(stage, lineage=(stage.record,))
    return replace(stage, lineage=(*parent.lineage, stage.record), teacher=parent.teacher)


_RECORD = TypeAdapter(StageRecord)
