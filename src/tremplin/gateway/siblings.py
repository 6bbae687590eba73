"""What the workers of one server tell each other, so that any of them can answer for all.

Each worker listens on a Unix socket in a folder that only the server's user can enter; whoever connects is told
the worker's metrics and last batches, as JSON. A worker that does not answer is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

TIMEOUT_S = 1.0
SUFFIX = ".worker"


@dataclass(frozen=True)
class Report:
    """What one worker tells."""

    metrics: str
    """Prometheus' text form."""
    batches: list[dict[str, Any]]


class Siblings:
    """The workers of one server, this one among them; a server without workers has none but itself."""

    def __init__(self, tell: Callable[[], Report], folder: Path | None = None, index: int = 0) -> None:
        self._tell = tell
        self._folder = folder
        self._own = None if folder is None else folder / f"{index}{SUFFIX}"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Answer the others while the block lasts."""
        if self._own is None:
            yield
            return
        self._own.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(self._answer, self._own):
            yield
        self._own.unlink(missing_ok=True)

    async def reports(self) -> list[Report]:
        """Return what every worker tells now, this one first."""
        own = self._tell()
        if self._folder is None:
            return [own]
        others = [path for path in sorted(self._folder.glob(f"*{SUFFIX}")) if path != self._own]
        told = await asyncio.gather(*(self._ask(path) for path in others))
        return [own, *(report for report in told if report is not None)]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(orjson.dumps(self._tell()))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async def _ask(self, path: Path) -> Report | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(path)
                told = await reader.read(-1)
                writer.close()
            return Report(**orjson.loads(told))
        except (OSError, TimeoutError, ValueError, TypeError):
            return None
