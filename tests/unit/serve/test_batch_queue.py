"""The queue: nothing lost, nothing answered twice, nothing handed to the wrong caller.

The engine here answers each row with the row itself, so an answer says whose it is. Threads, event loop and
queue are the real ones.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.echo_engine import PATIENCE_S, EchoEngine, costs, echo
from tremplin.errors import EngineCrashed, EngineFailed, EngineHung, EngineOutOfMemory, NotReady
from tremplin.serve.batch import BatchLimits, Release
from tremplin.serve.call import Priority
from tremplin.serve.engine import Engine, Outputs, TokenBatch
from tremplin.serve.queue import BatchQueue
from tremplin.serve.supervisor import EngineSupervisor, time_limit
from tremplin.serve.work import BatchRecord, Tokens, Work

LIMITS = BatchLimits(max_tokens=200, max_rows=16)

Started = Callable[..., BatchQueue]


@pytest.fixture
def started() -> Iterator[Started]:
    queues: list[BatchQueue] = []

    def start(
        engine: EchoEngine | Callable[[], Engine],
        limits: BatchLimits = LIMITS,
        *,
        min_limit_s: float = 10.0,
        **options: object,
    ) -> BatchQueue:
        make = (lambda: engine) if isinstance(engine, EchoEngine) else engine
        supervisor, model = EngineSupervisor(make), costs()
        supervisor.start()
        limit = time_limit(model, min_limit_s)
        queue = BatchQueue(supervisor, model, limits, limit, name="test", **options)  # type: ignore[arg-type]
        queue.start()
        queues.append(queue)
        return queue

    yield start
    for queue in queues:
        queue.stop()


class Asked:
    """One request and the future that says it is done."""

    def __init__(
        self, rows: Sequence[list[int]], priority: Priority = Priority.INTERACTIVE, deadline: float | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        tokens = [Tokens(row) for row in rows]
        self.work = Work(tokens, sum(map(len, rows)), priority, loop, time.perf_counter(), deadline, self._finish)
        self.calls = 0

    def _finish(self) -> None:
        self.calls += 1
        if not self.done.done():
            self.done.set_result(None)


async def answer(queue: BatchQueue, rows: Sequence[list[int]], priority: Priority = Priority.INTERACTIVE) -> Work:
    asked = Asked(rows, priority)
    queue.submit(asked.work)
    await asyncio.wait_for(asked.done, PATIENCE_S)
    assert asked.calls == 1, "answered twice"
    if asked.work.error is not None:
        raise asked.work.error
    return asked.work


def assert_is_own(work: Work, rows: Sequence[list[int]]) -> None:
    assert [(float(first), float(length)) for first, length in work.answers] == [
        (row[0], len(row)) for row in rows
    ]
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
        streams=1 + seed % 3,
    )

    async def caller() -> None:
        for _ in range(15):
            rows = random_rows(generator, ids)
            assert_is_own(await answer(queue, rows, generator.choice(list(Priority))), rows)

    await asyncio.gather(*(caller() for _ in range(100)))
    computed = [int(first) for batch in engine.batches for first in batch.input_ids[:, 0]]
    assert len(computed) == len(set(computed)), "a row was computed twice"
    assert len(computed) == next(ids) - 1, "a row was lost"
    queue.stop()
    assert sum(record.rows for record in records) == len(computed)
    assert all(0 < record.tokens <= record.padded_tokens for record in records)
    assert all(0 <= record.shortest_wait_s <= record.longest_wait_s for record in records)
    assert not any(record.failed for record in records)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=12), min_size=1, max_size=40),
    limits=st.builds(BatchLimits, max_tokens=st.integers(1, 300), max_rows=st.integers(1, 20)),
    streams=st.integers(1, 3),
)
async def test_any_split_into_requests_and_batches_keeps_answers_apart(
    started: Started, requests: list[list[int]], limits: BatchLimits, streams: int
) -> None:
    ids = iter(range(1, 10**6))
    asked = [[[next(ids)] * length for length in request] for request in requests]
    queue = started(EchoEngine(), limits, streams=streams)
    for work, rows in zip(await asyncio.gather(*(answer(queue, rows) for rows in asked)), asked, strict=True):
        assert_is_own(work, rows)
    queue.stop()


@pytest.mark.parametrize("seed", range(3))
async def test_cancellations_and_failures_touch_nobody_else(started: Started, seed: int) -> None:
    """Only a request with a row that fails alone fails; whoever shared its batch is answered."""
    generator, ids = random.Random(seed), iter(range(1, 10**6))

    def spoil(batch: TokenBatch) -> None:
        if (batch.input_ids[:, 0] % 97 == 0).any():
            raise RuntimeError("a user's text")

    queue = started(EchoEngine(spoil), streams=1 + seed % 2)
    outcomes: Counter[str] = Counter()
    messages: set[str] = set()

    async def caller() -> None:
        for _ in range(12):
            rows = random_rows(generator, ids)
            asked = Asked(rows)
            queue.submit(asked.work)
            if generator.random() < 0.2:
                await asyncio.sleep(generator.choice((0, 0.001)))
                asked.work.abandoned = True
                outcomes["cancelled"] += 1
                continue
            await asyncio.wait_for(asked.done, PATIENCE_S)
            is_poisoned = any(row[0] % 97 == 0 for row in rows)
            assert (asked.work.error is not None) == is_poisoned
            if asked.work.error is not None:
                messages.add(str(asked.work.error))
                outcomes["failed"] += 1
            else:
                assert_is_own(asked.work, rows)
                outcomes["answered"] += 1

    await asyncio.gather(*(caller() for _ in range(100)))
    assert messages == {"The engine failed in an unexpected way (RuntimeError)."}  # never what a library said
    assert sum(outcomes.values()) == 1200
    assert min(outcomes[name] for name in ("answered", "failed", "cancelled")) > 0, outcomes
    rows = [[3, 4, 5]]
    assert_is_own(await answer(queue, rows), rows)


async def test_only_the_culprit_of_a_batch_fails(started: Started) -> None:
    def spoil(batch: TokenBatch) -> None:
        if 13 in batch.input_ids:
            raise EngineFailed("cannot read 13")

    engine = EchoEngine(spoil)
    records: list[BatchRecord] = []
    queue = started(engine, BatchLimits(max_tokens=512, max_rows=64), on_batch=records.append)
    engine.gate.clear()
    first = asyncio.ensure_future(answer(queue, [[1]]))
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    waiting = [asyncio.ensure_future(answer(queue, [[number]])) for number in range(2, 66)]
    await asyncio.sleep(0)
    engine.gate.set()
    await first
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(o) for o in outcomes if isinstance(o, BaseException)] == ["cannot read 13"]
    assert isinstance(outcomes[13 - 2], EngineFailed)
    queue.stop()
    # 32 rows of the 64 that waited, then eight parts of 4, then four of 1.
    assert sum(record.failed for record in records) == 3
    assert sum(record.release is Release.ISOLATED for record in records) == 12


async def test_a_failure_that_passes_fails_nobody(started: Started) -> None:
    left = [1]

    def spoil(batch: TokenBatch) -> None:
        if left[0]:
            left[0] -= 1
            raise EngineFailed("for now")

    queue = started(EchoEngine(spoil))
    for rows in ([[1], [2], [3]], [[4]]):
        left[0] = 1
        assert_is_own(await answer(queue, rows), rows)


@pytest.mark.parametrize(
    "wrong", [np.zeros(1, np.float32), np.zeros(3, np.float32), np.zeros((0, 4), np.float32), None]
)
async def test_an_engine_that_gives_too_few_or_many_rows_is_refused(started: Started, wrong: object) -> None:
    """Handing over what came would give a caller another's answer, or none."""

    def spoil(batch: TokenBatch) -> Outputs | None:
        return {**echo(batch), "length": wrong} if 5 in batch.input_ids else None  # type: ignore[dict-item]

    queue = started(EchoEngine(spoil))
    if isinstance(wrong, np.ndarray) and len(wrong) == 1:
        # Alone the row's answer has the right form; with the other it had not.
        await answer(queue, [[5, 6], [7, 8]])
    else:
        with pytest.raises(EngineFailed):
            await answer(queue, [[5, 6], [7, 8]])
    assert_is_own(await answer(queue, [[9, 9]]), [[9, 9]])


async def test_memory_that_runs_out_halves_the_budget_which_grows_again(started: Started) -> None:
    sizes: list[int] = []

    def spoil(batch: TokenBatch) -> None:
        sizes.append(batch.input_ids.size)
        if batch.input_ids.size > 40:
            raise EngineOutOfMemory("too large")

    engine = EchoEngine(spoil)
    queue = started(engine, BatchLimits(max_tokens=256, max_rows=64))
    for _ in range(3):
        works = await asyncio.gather(*(answer(queue, [[number] * 8]) for number in range(1, 60)))
        assert all(work.error is None for work in works)
    assert sum(size > 40 for size in sizes) <= 6, "it learned nothing"
    await asyncio.gather(*(answer(queue, [[number]]) for number in range(1, 2000)))
    sizes.clear()
    engine.spoil = lambda batch: sizes.append(batch.input_ids.size)
    await asyncio.gather(*(answer(queue, [[number] * 8]) for number in range(1, 200)))
    assert max(sizes) > 40


async def test_a_hung_batch_is_taken_from_its_thread_and_only_its_culprit_fails(started: Started) -> None:
    """The first engine hangs for ever on 13; the one in its place as well."""
    forever = threading.Event()
    engines: list[EchoEngine] = []

    def make() -> Engine:
        def spoil(batch: TokenBatch) -> None:
            if 13 in batch.input_ids:
                forever.wait(PATIENCE_S)

        engines.append(EchoEngine(spoil))
        return engines[-1]

    records: list[BatchRecord] = []
    queue = started(make, BatchLimits(max_tokens=512, max_rows=64), min_limit_s=0.3, on_batch=records.append)
    asked = [asyncio.ensure_future(answer(queue, [[number]])) for number in range(1, 30)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    failed = [number for number, outcome in enumerate(outcomes, 1) if isinstance(outcome, BaseException)]
    assert failed == [13]
    assert isinstance(outcomes[12], EngineHung)
    assert "a batch of 1 rows within" in str(outcomes[12])
    rows = [[5, 5]]
    assert_is_own(await answer(queue, rows), rows)
    assert len(engines) >= 3
    assert all(engine.closes for engine in engines[:-1])
    queue.stop()  # does not wait for threads that will never come back
    forever.set()


async def test_what_a_given_up_thread_still_brings_is_thrown_away(started: Started) -> None:
    late = threading.Event()
    engines: list[EchoEngine] = []

    def make() -> Engine:
        def spoil(batch: TokenBatch) -> Outputs | None:
            if len(engines) == 1:
                late.wait(PATIENCE_S)
                return {"first": np.full(batch.rows, -1, np.float32), "length": np.zeros(batch.rows, np.float32)}
            return None

        engines.append(EchoEngine(spoil))
        return engines[-1]

    queue = started(make, min_limit_s=0.2)
    rows = [[7, 7, 7]]
    work = await answer(queue, rows)
    late.set()
    await asyncio.sleep(0.05)
    assert_is_own(work, rows)


async def test_an_engine_that_fails_every_batch_is_replaced(started: Started) -> None:
    engines: list[EchoEngine] = []

    def make() -> Engine:
        def spoil(batch: TokenBatch) -> None:
            if len(engines) < 2:
                raise EngineCrashed("broken for good")

        engines.append(EchoEngine(spoil))
        return engines[-1]

    queue = started(make)
    outcomes = await asyncio.gather(*(answer(queue, [[n]]) for n in range(1, 20)), return_exceptions=True)
    assert len(engines) == 2
    assert sum(isinstance(outcome, BaseException) for outcome in outcomes) <= 2
    assert_is_own(await answer(queue, [[4]]), [[4]])


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


async def test_abandoned_and_expired_rows_are_not_computed(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine, BatchLimits(max_rows=1))
    engine.gate.clear()
    first = asyncio.ensure_future(answer(queue, [[1]]))
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    gone = Asked([[2], [3]])
    queue.submit(gone.work)
    gone.work.abandoned = True
    late = Asked([[5]], deadline=time.perf_counter() + 0.01)
    queue.submit(late.work)
    last = asyncio.ensure_future(answer(queue, [[4]]))
    await asyncio.sleep(0.05)
    engine.gate.set()
    await asyncio.gather(first, last)
    assert [int(batch.input_ids[0, 0]) for batch in engine.batches] == [1, 4]


async def test_interactive_rows_go_before_bulk_and_bulk_is_not_starved(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine, BatchLimits(max_tokens=8, max_rows=1))
    engine.gate.clear()
    first = asyncio.ensure_future(answer(queue, [[1]]))
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    bulk = asyncio.ensure_future(answer(queue, [[1000 + number] for number in range(100)], Priority.BULK))
    interactive = [asyncio.ensure_future(answer(queue, [[number]])) for number in range(2, 102)]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, bulk, *interactive)
    order = [int(batch.input_ids[0, 0]) >= 1000 for batch in engine.batches[1:]]
    # While both wait, bulk gets one batch in five.
    while_both = order[: len(order) - order[::-1].index(False)]
    assert 0.15 <= sum(while_both) / len(while_both) <= 0.25
    assert order[:10].count(True) in (1, 2, 3)


async def test_two_streams_run_two_batches_at_once(started: Started) -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def spoil(batch: TokenBatch) -> None:
        both.wait()

    queue = started(EchoEngine(spoil), BatchLimits(max_rows=1), streams=2)
    await asyncio.gather(answer(queue, [[1]]), answer(queue, [[2]]))


async def test_stop_answers_what_is_queued_and_refuses_what_comes_after(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine, BatchLimits(max_rows=1), streams=2)
    engine.gate.clear()
    waiting = [asyncio.ensure_future(answer(queue, [[number]])) for number in range(1, 30)]
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    stopping = asyncio.ensure_future(asyncio.to_thread(queue.stop))
    await asyncio.sleep(0.01)
    engine.gate.set()
    await stopping
    works = await asyncio.gather(*waiting)
    assert [int(work.answers[0][0]) for work in works] == list(range(1, 30))
    with pytest.raises(NotReady):
        queue.submit(Asked([[1]]).work)
    queue.stop()  # twice is once


async def test_stop_of_an_idle_queue_ends_at_once(started: Started) -> None:
    queue = started(EchoEngine(), streams=3)
    await asyncio.wait_for(asyncio.to_thread(queue.stop), PATIENCE_S)


def test_a_loop_that_closed_does_not_stop_the_thread(started: Started) -> None:
    engine = EchoEngine()
    queue = started(engine)
    engine.gate.clear()

    async def leave() -> None:
        queue.submit(Asked([[1]]).work)
        await asyncio.to_thread(engine.entered.wait, PATIENCE_S)

    asyncio.run(leave())
    engine.gate.set()

    async def come() -> Work:
        return await answer(queue, [[2]])

    assert_is_own(asyncio.run(come()), [[2]])
