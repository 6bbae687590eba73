"""What every cache of answers keeps: exact answers, exact keys, bounds, and no failure that reaches a caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from benchmarks.processes import redis_server
from tremplin.serve.cache import CachedRow, ResultCache
from tremplin.store.memory_cache import MemoryCache
from tremplin.store.redis_cache import RedisCache, pack, unpack

VERSION, OTHER = b"version1", b"*?[ab]\\z"  # the second holds what Redis' patterns know


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A real Redis on a free port."""
    with redis_server() as url:
        if url is None:
            pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
        yield url


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[ResultCache]:
    if request.param == "memory":
        made: ResultCache = MemoryCache(1 << 20)
    else:
        # A busy machine must not make a miss of a hit.
        made = RedisCache(request.getfixturevalue("redis_url"), timeout_s=5.0)
    await made.drop(VERSION)
    await made.drop(OTHER)
    yield made
    await made.close()


def row(seed: int, width: int = 4) -> CachedRow:
    generator = np.random.default_rng(seed)
    arrays = (generator.normal(size=width).astype(np.float32), generator.normal(size=(2, 3)).astype(np.float32))
    return CachedRow(arrays, tokens=seed + 2, is_truncated=seed % 2 == 1)


def same(found: CachedRow | None, expected: CachedRow) -> bool:
    return (
        found is not None
        and (found.tokens, found.is_truncated) == (expected.tokens, expected.is_truncated)
        and len(found.answer) == len(expected.answer)
        and all(
            a.dtype == b.dtype == np.float32 and np.array_equal(a, b)
            for a, b in zip(found.answer, expected.answer, strict=True)
        )
    )


async def test_it_gives_back_exactly_what_was_put_in_the_order_asked(cache: ResultCache) -> None:
    rows = {VERSION + bytes([number]): row(number) for number in range(20)}
    assert await cache.get(list(rows)) == [None] * 20
    await cache.put(list(rows.items()))
    asked = [VERSION + bytes([number]) for number in (7, 3, 99, 7, 0)]
    found = await cache.get(asked)
    assert found[2] is None
    for key, one in zip(asked, found, strict=True):
        assert key not in rows or same(one, rows[key])


async def test_putting_again_replaces(cache: ResultCache) -> None:
    await cache.put([(VERSION + b"k", row(1))])
    await cache.put([(VERSION + b"k", row(2))])
    (found,) = await cache.get([VERSION + b"k"])
    assert same(found, row(2))


async def test_a_version_is_dropped_whole_and_alone(cache: ResultCache) -> None:
    for version in (VERSION, OTHER):
        await cache.put([(version + bytes([number]), row(number)) for number in range(30)])
    await cache.drop(OTHER)
    assert await cache.get([OTHER + bytes([number]) for number in range(30)]) == [None] * 30
    assert all(found is not None for found in await cache.get([VERSION + bytes([n]) for n in range(30)]))


async def test_nothing_is_asked_for_nothing(cache: ResultCache) -> None:
    assert await cache.get([]) == []
    await cache.put([])


async def test_many_ask_at_once(cache: ResultCache) -> None:
    async def caller(number: int) -> None:
        for turn in range(10):
            key = VERSION + bytes([number, turn])
            await cache.put([(key, row(number))])
            (found,) = await cache.get([key])
            assert same(found, row(number))

    await asyncio.gather(*(caller(number) for number in range(30)))


# -- the memory adapter's own ---------------------------------------------------------------------------


async def test_memory_is_bounded_by_bytes_and_the_least_used_go() -> None:
    one = row(0).size_bytes
    cache = MemoryCache(10 * one)
    keys = [VERSION + bytes([number]) for number in range(30)]
    for number, key in enumerate(keys):
        await cache.put([(key, row(number))])
        await cache.get(keys[:1])  # used all the time
    found = await cache.get(keys)
    assert sum(entry is not None for entry in found) == 10
    assert found[0] is not None
    await cache.put([(VERSION + b"large", row(1, width=100_000))])  # larger than all of it: not kept
    assert await cache.get([VERSION + b"large"]) == [None]


# -- the Redis adapter's own ----------------------------------------------------------------------------


arrays = st_numpy.arrays(np.float32, st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=5))


@given(st.lists(arrays, max_size=3), st.integers(0, 2**32 - 1), st.booleans())
def test_what_is_packed_is_unpacked(parts: list[np.ndarray], tokens: int, cut: bool) -> None:  # type: ignore[type-arg]
    packed = pack(CachedRow(tuple(parts), tokens, cut))
    found = unpack(packed)
    assert found is not None
    assert (found.tokens, found.is_truncated) == (tokens, cut)
    for one, expected in zip(found.answer, parts, strict=True):
        np.testing.assert_array_equal(one, expected)


@given(st.binary(max_size=60))
def test_what_is_no_row_is_none(value: bytes) -> None:
    found = unpack(value)
    assert found is None or pack(found) == value or found.is_truncated


@pytest.mark.parametrize("harm", ["closed port", "silent", "garbage"])
async def test_a_redis_that_does_not_answer_costs_a_moment_and_no_request(harm: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side gives up
        writer.close()

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 20)
        writer.write(b"?!\r\n" * 50)
        writer.close()

    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    answer = garbage if harm == "garbage" else silent
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if harm == "closed port":
        server.close()
        await server.wait_closed()
    cache = RedisCache(f"redis://127.0.0.1:{port}/0", timeout_s=0.1)
    started = time.perf_counter()
    assert await cache.get([VERSION + b"k"] * 3) == [None] * 3
    for _ in range(50):  # it is left alone for a while
        assert await cache.get([VERSION + b"k"]) == [None]
        await cache.put([(VERSION + b"k", row(1))])
    assert time.perf_counter() - started < 3.0
    await cache.close()
    server.close()


async def test_rows_of_another_release_are_misses(redis_url: str) -> None:
    import redis.asyncio

    cache = RedisCache(redis_url, timeout_s=5.0)
    await cache.put([(VERSION + b"k", row(1))])
    raw = redis.asyncio.Redis.from_url(redis_url)
    (name,) = [key async for key in raw.scan_iter(match=b"*version1k")]
    assert 0 < await raw.ttl(name) <= 24 * 3600
    await raw.set(name, b"\x09 something else")
    assert await cache.get([VERSION + b"k"]) == [None]
    await raw.aclose()
    await cache.close()


def test_the_adapter_is_found_by_the_setting(tmp_path: Path) -> None:
    from tremplin.config import read_settings
    from tremplin.errors import InvalidSettings

    assert read_settings(cache_url="redis://127.0.0.1:1/0", data=tmp_path).cache_url
    with pytest.raises(InvalidSettings, match="cache_url"):
        read_settings(cache_url="http://127.0.0.1", data=tmp_path)
