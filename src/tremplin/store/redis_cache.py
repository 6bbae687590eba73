"""Answers kept in Redis, shared by replicas. Redis may lose them, be slow or be gone: then they are computed."""

from __future__ import annotations

import contextlib
import re
import struct
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import structlog

from tremplin.errors import MissingExtra
from tremplin.serve.cache import CachedRow
from tremplin.serve.work import Answer

PREFIX = b"tremplin:row:1:"  # the 1 is the version of the format below

# Asking must cost less than computing: a Redis that does not answer at once is left alone for a while.
TIMEOUT_S = 0.05
PAUSE_S = 5.0
LIFETIME_S = 24 * 3600

HEAD = struct.Struct("<IBB")  # tokens, truncated, arrays
SHAPE = struct.Struct("<B")  # dimensions of an array, each a uint32

log = structlog.get_logger()


class RedisCache:
    """An adapter of ``serve.cache.ResultCache``."""

    def __init__(self, url: str, *, lifetime_s: int = LIFETIME_S, timeout_s: float = TIMEOUT_S) -> None:
        try:
            from redis.asyncio import Redis
            from redis.exceptions import RedisError
        except ImportError:
            raise MissingExtra("A cache in Redis needs a package: pip install 'tremplin[redis]'") from None
        self._errors = (RedisError, OSError, TimeoutError)
        self._redis = Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._lifetime_s = lifetime_s
        self._paused_until = 0.0

    async def get(self, keys: Sequence[bytes]) -> list[CachedRow | None]:
        """Return what is kept under each key; nothing while Redis does not answer."""
        if not keys or time.monotonic() < self._paused_until:
            return [None] * len(keys)
        found: Sequence[bytes | str | None] = [None] * len(keys)
        async with self._forgiving():
            found = await self._redis.mget([PREFIX + key for key in keys])
        return [unpack(value) if isinstance(value, bytes) else None for value in found]

    async def put(self, rows: Sequence[tuple[bytes, CachedRow]]) -> None:
        """Keep answers for their lifetime."""
        if not rows or time.monotonic() < self._paused_until:
            return
        async with self._forgiving(), self._redis.pipeline(transaction=False) as pipeline:
            for key, row in rows:
                pipeline.set(PREFIX + key, pack(row), ex=self._lifetime_s)
            await pipeline.execute()

    async def drop(self, version: bytes) -> None:
        """Forget every answer of a version."""
        pattern = PREFIX + re.sub(rb"([*?\[\]\\])", rb"\\\1", version)
        async with self._forgiving():
            batch: list[bytes] = []
            async for key in self._redis.scan_iter(match=pattern + b"*", count=1000):
                batch.append(key)
                if len(batch) == 1000:
                    await self._redis.unlink(*batch)
                    batch = []
            if batch:
                await self._redis.unlink(*batch)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    @contextlib.asynccontextmanager
    async def _forgiving(self) -> AsyncIterator[None]:
        """Make of any failure of Redis a pause without it."""
        try:
            yield
        except self._errors as error:
            self._paused_until = time.monotonic() + PAUSE_S
            log.warning("the cache does not answer", pause_s=PAUSE_S, error=error)


def pack(row: CachedRow) -> bytes:
    """Return a row as bytes: a head, then for each array its shape and its little-endian float32 numbers."""
    parts = [HEAD.pack(row.tokens, row.is_truncated, len(row.answer))]
    for array in row.answer:
        parts.append(SHAPE.pack(array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape))
        parts.append(array.astype("<f4", copy=False).tobytes())
    return b"".join(parts)


def unpack(value: bytes) -> CachedRow | None:
    """Return the row in ``value``; None when it is not one, such as what another release has written."""
    try:
        tokens, is_truncated, count = HEAD.unpack_from(value)
        offset, arrays = HEAD.size, []
        for _ in range(count):
            (dimensions,) = SHAPE.unpack_from(value, offset)
            shape = struct.unpack_from(f"<{dimensions}I", value, offset + SHAPE.size)
            offset += SHAPE.size + 4 * dimensions
            size = int(np.prod(shape))
            arrays.append(np.frombuffer(value, "<f4", size, offset).reshape(shape).copy())
            offset += 4 * size
    except (struct.error, ValueError):
        return None
    if offset != len(value):
        return None
    answer: Answer = tuple(arrays)
    return CachedRow(answer, tokens, bool(is_truncated))
