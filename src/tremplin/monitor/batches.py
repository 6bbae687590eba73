"""The last batches of each version, for the operator who asks why something was slow."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

from tremplin.registry.manifest import Manifest
from tremplin.serve.work import BatchRecord

KEPT = 100


class RecentBatches:
    """Keeps the last KEPT batches of all versions together. Written by engine threads, read by the event loop."""

    def __init__(self) -> None:
        self._kept: deque[tuple[str, BatchRecord]] = deque(maxlen=KEPT)

    def batch(self, manifest: Manifest, record: BatchRecord) -> None:
        """Keep one batch."""
        self._kept.append((manifest.ref, record))

    def newest(self) -> list[dict[str, object]]:
        """Return what is kept, newest first, as an operator reads it."""
        return [_shown(version, record) for version, record in list(self._kept)[::-1]]


def _shown(version: str, record: BatchRecord) -> dict[str, object]:
    return {
        "at": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds"),
        "version": version,
        "engine": record.engine,
        "priority": record.priority,
        "release": record.release,
        "rows": record.rows,
        "tokens": record.tokens,
        "padding_share": round(record.padding_share, 4),
        "waiting_rows": record.waiting,
        "wait_ms": {
            "shortest": round(record.shortest_wait_s * 1e3, 3),
            "longest": round(record.longest_wait_s * 1e3, 3),
        },
        "compute_ms": round(record.seconds * 1e3, 3),
        "predicted_ms": round(record.predicted_s * 1e3, 3),
        "failed": record.failed,
    }
