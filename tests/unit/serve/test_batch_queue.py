"""The queue: nothing lost, nothing answered twice, nothing handed to the wrong caller.

The engine here answers each row with the row itself, so an answer says whose it is. Threads, event loop and
queue are the real ones.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tremplin.errors import EngineFailed, NotReady
from tremplin.serve.batch import BatchLimits
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.queue import BatchQueue, BatchRecord, Work

PATIENCE_S = 30.0
LIMITS = BatchLimits(max_tokens=200, max_rows=16)


class EchoEngine:
    """Answers each row with its first token and its length."""

    name = "echo"

    def __init__(self, fails: Callable[[TokenBatch], bool] = lambda batch: False) -> None:
        self.fails = fails
        self.batches: list[TokenBatch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def run(self, batch: TokenBatch) -> Outputs:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        self.batches.append(batch)
        if self.fails(batch):
            raise RuntimeError("a bug in an adapter")
        return {
            "first": batch.input_ids[:, 0].astype(np.float32),
            "length": batch.attention_mask.sum(axis=1).astype(np.float32),
        }

    def health(self) -> bool:
        return True

    def close(self) -> None: ...


Started = Callable[..., BatchQueue]


@pytest.fixture
def started() -> Iterator[Started]:
    queues: list[BatchQueue] = []

    def start(engine: EchoEngine, limits: BatchLimits = LIMITS, **options: object) -> BatchQueue:
        queue = BatchQueue(engine, limits, name="test", **options)  # type: ignore[arg-type]
        queue.start()
        queues.append(queue)
        return queue

    yield start
    for queue in queues:
        queue.stop()


def work_of(rows: Sequence[list[int]]) -> Work:
    loop = asyncio.get_running_loop()
    return Work(rows, sum(map(len, rows)), loop, loop.create_future(), time.perf_counter())


async def answer(queue: BatchQueue, rows: Sequence[list[int]]) -> Work:
    work = work_of(rows)
    queue.submit(work)
    return await asyncio.wait_for(work.future, PATIENCE_S)


def assert_is_own(work: Work, rows: Sequence[list[int]]) -> None:
    assert [float(value) for value in work.results["first"]] == [row[0] for row in rows]
    assert [float(value) for value in work.results["length"]] == [len(row) for row in rows]
    assert work.arrived <= work.started <= work.finished


def random_rows(generator: random.Random, ids: Iterator[int]) -> list[list[int]]:
    """One request: a few rows, each beginning with a number of its own."""
    return [[next(ids)] + [1] * generator.choice((0, 3, 7, 30, 150)) for _ in range(generator.randint(1, 9))]


@pytest.mark.parametrize("seed", range(4))
async def test_thousands_of_requests_each_get_their_own_answer(started: Started, seed: int) -> None:
    generator, ids = random.Random(seed), iter(range(1, 10**6))
    records: list[BatchRecord] = []
    engine = EchoEngine()
    queue = started(
        engine,
        BatchLimits(generator.choice((64, 200, 512)), generator.choice((1, 8, 64))),
        on_batch=records.append,
    )

    async def caller() -> None:
        for _ in range(15):
            rows = random_rows(generator, ids)
            assert_is_own(await answer(queue, rows), rows)

    await asyncio.gather(*(caller() for _ in range(100)))
    computed = [int(first) for batch in engine.batches for first in batch.input_ids[:, 0]]
    assert len(computed) == len(set(computed)), "a row was computed twice"
    assert len(computed) == next(ids) - 1, "a row was lost"
    queue.stop()
    assert sum(record.rows for record in records) == len(computed)
    assert all(0 < record.tokens <= record.padded_tokens for record in records)
    assert not any(record.failed for record in records)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=12), min_size=1, max_size=40),
    limits=st.builds(
        BatchLimits, max_tokens=st.integers(1, 300), max_rows=st.integers(1, 20), window=st.integers(1, 30)
    ),
)
async def test_any_split_into_requests_and_batches_keeps_answers_apart(
    started: Started, requests: list[list[int]], limits: BatchLimits
) -> None:
    ids = iter(range(1, 10**6))
    asked = [[[next(ids)] * length for length in request] for request in requests]
    queue = started(EchoEngine(), limits)
    for work, rows in zip(await asyncio.gather(*(answer(queue, rows) for rows in asked)), asked, strict=True):
        assert_is_own(work, rows)
    queue.stop()


@pytest.mark.parametrize("seed", range(3))
async def test_cancellations_and_failures_touch_nobody_else(started: Started, seed: int) -> None:
    generator, ids = random.Random(seed), iter(range(1, 10**6))
    engine = EchoEngine(fails=lambda batch: bool((batch.input_ids[:, 0] % 97 == 0).any()))
    queue = started(engine)
    outcomes = {"answered": 0, "failed": 0, "cancelled": 0}
    messages: set[str] = set()

    async def caller() -> None:
        for _ in range(12):
            rows = random_rows(generator, ids)
            work = work_of(rows)
            queue.submit(work)
            waiting = asyncio.ensure_future(asyncio.wait_for(work.future, PATIENCE_S))
            if generator.random() < 0.2:
                await asyncio.sleep(generator.choice((0, 0.001)))
                work.abandoned = True
                waiting.cancel()
            try:
                assert_is_own(await waiting, rows)
                outcomes["answered"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            except EngineFailed as failure:
                messages.add(str(failure))
                outcomes["failed"] += 1

    await asyncio.gather(*(caller() for _ in range(100)))
    assert messages == {"The engine failed in an unexpected way (RuntimeError)."}  # never what a library said
    assert sum(outcomes.values()) == 1200
    assert min(outcomes.values()) > 0, outcomes
    rows = [[3, 4, 5]]
    assert_is_own(await answer(queue, rows), rows)


async def test_a_failure_fails_its_batch_and_the_thread_lives_on(started: Started) -> None:
    engine = EchoEngine(fails=lambda batch: 13 in batch.input_ids)
    records: list[BatchRecord] = []
    queue = started(engine, BatchLimits(max_rows=1), on_batch=records.append)
    outcomes = await asyncio.gather(
        answer(queue, [[7]]), answer(queue, [[13]]), answer(queue, [[8], [13], [9]]), answer(queue, [[11]]),
        return_exceptions=True,
    )  # fmt: skip
    assert [isinstance(outcome, EngineFailed) for outcome in outcomes] == [False, True, True, False]
    queue.stop()
    assert [record.failed for record in records].count(True) == 2


async def test_the_engines_own_error_reaches_the_caller(started: Started) -> None:
    class Refusing(EchoEngine):
        def run(self, batch: TokenBatch) -> Outputs:
            raise EngineFailed("out of memory")

    with pytest.raises(EngineFailed, match="out of memory"):
        await answer(started(Refusing()), [[1]])


@pytest.mark.parametrize(
    "wrong", [np.zeros(1, np.float32), np.zeros(3, np.float32), np.zeros((0, 4), np.float32), None]
)
async def test_an_engine_that_gives_too_few_or_many_rows_is_refused(started: Started, wrong: object) -> None:
    """Handing over what came would give a caller another's answer, or none."""

    class Wrong(EchoEngine):
        def run(self, batch: TokenBatch) -> Outputs:
            outputs = dict(super().run(batch))
            return outputs if len(batch.input_ids) != 2 else outputs | {"length": wrong}  # type: ignore[dict-item]

    queue = started(Wrong())
    with pytest.raises(EngineFailed):
        await answer(queue, [[5, 6], [7, 8]])
    assert_is_own(await answer(queue, [[9, 9]]), [[9, 9]])


async def test_what_waits_while_the_engine_works_goes_in_one_batch(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine, BatchLimits(max_tokens=512, max_rows=64))
    engine.gate.clear()
    first = asyncio.ensure_future(answer(queue, [[1]]))
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    others = [asyncio.ensure_future(answer(queue, [[number]])) for number in range(2, 32)]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, *others)
    assert [len(batch.input_ids) for batch in engine.batches] == [1, 30]


async def test_abandoned_rows_are_not_computed(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine, BatchLimits(max_rows=1))
    engine.gate.clear()
    first = asyncio.ensure_future(answer(queue, [[1]]))
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    gone = work_of([[2], [3]])
    queue.submit(gone)
    gone.abandoned = True
    last = asyncio.ensure_future(answer(queue, [[4]]))
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, last)
    assert [int(batch.input_ids[0, 0]) for batch in engine.batches] == [1, 4]


async def test_stop_answers_what_is_queued_and_refuses_what_comes_after(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine, BatchLimits(max_rows=1))
    engine.gate.clear()
    waiting = [asyncio.ensure_future(answer(queue, [[number]])) for number in range(1, 30)]
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    stopping = asyncio.ensure_future(asyncio.to_thread(queue.stop))
    await asyncio.sleep(0.01)
    engine.gate.set()
    await stopping
    works = await asyncio.gather(*waiting)
    assert [int(work.results["first"][0]) for work in works] == list(range(1, 30))
    with pytest.raises(NotReady):
        queue.submit(work_of([[1]]))
    queue.stop()  # twice is once


async def test_stop_of_an_idle_queue_ends_at_once(started: Started) -> None:
    queue = started(EchoEngine())
    await asyncio.wait_for(asyncio.to_thread(queue.stop), PATIENCE_S)


def test_a_loop_that_closed_does_not_stop_the_thread(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine)
    engine.gate.clear()

    async def leave() -> None:
        queue.submit(work_of([[1]]))
        await asyncio.to_thread(engine.entered.wait, PATIENCE_S)

    asyncio.run(leave())
    engine.gate.set()

    async def come() -> Work:
        return await answer(queue, [[2]])

    assert_is_own(asyncio.run(come()), [[2]])


async def test_two_loops_share_a_queue(started: Started) -> None:
    queue = started(EchoEngine())

    def elsewhere(first: int) -> list[float]:
        async def ask() -> list[float]:
            works = await asyncio.gather(*(answer(queue, [[first + i]]) for i in range(50)))
            return [float(work.results["first"][0]) for work in works]

        return asyncio.run(ask())

    answers = await asyncio.gather(*(asyncio.to_thread(elsewhere, 1000 * k) for k in range(1, 4)))
    assert answers == [[float(1000 * k + i) for i in range(50)] for k in range(1, 4)]
