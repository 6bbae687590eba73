"""The last batches of each version, for the operator who asks why something was slow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tremplin.registry.manifest import Manifest
from tremplin.serve.work import BatchRecord

KEPT = 100


@dataclass(frozen=True, slots=True)
class VersionBatch:
    """One batch and the version it was of."""

    version: str
    record: BatchRecord


class RecentBatches:
    """Keeps the last KEPT batches of all versions together. Written by engine threads, read by the event loop."""

    def __init__(self) -> None:
        self._kept: deque[VersionBatch] = deque(maxlen=KEPT)

    def batch(self, manifest: Manifest, record: BatchRecord) -> None:
        """Keep one batch."""
        self._kept.append(VersionBatch(manifest.ref, record))

    def newest(self) -> list[VersionBatch]:
        """Return what is kept, newest first."""
        return list(self._kept)[::-1]
