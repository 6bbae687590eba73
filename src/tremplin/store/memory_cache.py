"""Answers kept in this process: the least recently used go when the bytes are used up."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache

from tremplin.serve.cache import CachedRow


class MemoryCache:
    """An adapter of ``serve.cache.ResultCache``. Owned by the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._rows: LRUCache[bytes, CachedRow] = LRUCache(max_bytes, getsizeof=lambda row: row.size_bytes)

    async def get(self, keys: Sequence[bytes]) -> list[CachedRow | None]:
        """Return what is kept under each key."""
        return [self._rows.get(key) for key in keys]

    async def put(self, rows: Sequence[tuple[bytes, CachedRow]]) -> None:
        """Keep answers; one that is larger than the whole cache is not kept."""
        for key, row in rows:
            if row.size_bytes <= self._rows.maxsize:
                self._rows[key] = row

    async def drop(self, version: bytes) -> None:
        """Forget every answer of a version."""
        for key in [key for key in self._rows if key.startswith(version)]:
            del self._rows[key]

    async def close(self) -> None:
        """Forget everything."""
        self._rows.clear()
