"""The queue of one version, and the threads that empty it.

Requests reach the queue as messages, and whole batches of answers go back to the event loop in one call, so two
hops are paid per batch, not per request. There are as many threads as batches may run at once, and one of them
leads (leader and followers: Schmidt et al., 2000): the leader takes in what has arrived, cuts the next batch, and
hands the lead over before it runs it. Whoever leads owns the lanes; between two batches the engine waits for
nobody.

A batch that fails is divided until the row that makes it fail is alone, and only that row's request fails. A
batch that hangs is taken from its thread by the watchdog, which starts another thread on a new engine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import numpy as np
import structlog
from numpy.typing import NDArray

from tremplin.errors import (
    EngineFailed,
    EngineHung,
    EngineNotRunning,
    EngineOutOfMemory,
    NotReady,
    TremplinError,
)
from tremplin.serve.batch import BatchLimits, Release
from tremplin.serve.costs import CostModel
from tremplin.serve.engine import Engine, Outputs, pad
from tremplin.serve.lanes import Lanes
from tremplin.serve.supervisor import EngineSupervisor, TimeLimit
from tremplin.serve.work import Batch, BatchRecord, Row, Work

# A batch that failed is divided into so many parts: isolating one row of 64 takes two rounds.
PARTS = 8
# A row that fails alone, and has failed before, is to blame itself.
FAILURES = 2

# A batch for which there was no engine is tried again so often, each time after a pause.
TRIES = 20
PAUSE_S = 0.1

WATCH_EVERY_S = 0.2
# An engine that keeps the time limit itself is left this long to say so: it knows better what to end.
GRACE_S = 0.5
PROBE_EVERY_S = 5.0

log = structlog.get_logger()


class _Stop:
    """Message: finish what waits, then end."""


class _Wake:
    """Message: there are parts of a failed batch to run."""


class BatchQueue:
    """Feeds one engine with batches cut from the waiting rows."""

    def __init__(
        self,
        engine: EngineSupervisor,
        costs: CostModel,
        limits: BatchLimits,
        time_limit: TimeLimit,
        *,
        name: str,
        streams: int = 1,
        on_batch: Callable[[BatchRecord], None] = lambda record: None,
    ) -> None:
        self._engine = engine
        self._costs = costs
        self._limits = limits
        self._max_tokens = limits.max_tokens
        self._time_limit = time_limit
        self._name = name
        self._streams = streams
        self._on_batch = on_batch
        self._inbox: SimpleQueue[Work | _Stop | _Wake] = SimpleQueue()
        self._lanes = Lanes()
        self._failed_parts: deque[list[Row]] = deque()
        self._is_stopping = False
        self._lead = threading.Lock()
        self._running: set[Batch] = set()
        self._claiming = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._watch_batches, name=f"watchdog {name}", daemon=True)

    def start(self) -> None:
        """Start the threads; the engine must be loaded."""
        for _ in range(self._streams):
            self._start_thread()
        self._watch.start()

    def submit(self, work: Work) -> None:
        """Hand over a request; it is told on its own event loop when it is done."""
        if self._is_stopping:
            raise NotReady("The server is stopping; send the request to another replica.")
        work.pending = len(work.rows)
        work.answers = [()] * len(work.rows)
        self._inbox.put(work)

    def stop(self) -> None:
        """Compute what is already in the queue, then end the threads and wait for them."""
        if not self._is_stopping:
            self._is_stopping = True
            self._inbox.put(_Stop())
            while alive := [thread for thread in self._threads if thread.is_alive()]:
                alive[0].join(WATCH_EVERY_S)  # the watchdog may strike it off meanwhile
            self._ended.set()
            self._watch.join()

    def _start_thread(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(target=self._run_batches, name=f"engine {self._name} {number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- leading: the lanes belong to the thread that holds the lead ------------------------------------

    def _run_batches(self) -> None:
        while True:
            with self._lead:
                batch = self._next_batch()
            if batch is None or not self._run(batch):
                return

    def _next_batch(self) -> Batch | None:
        """Return the next batch, waiting for work when there is none; None when the queue has stopped."""
        while True:
            self._receive()
            batch = self._cut()
            if batch is not None:
                return batch
            if self._is_stopping and not len(self._lanes) and not self._failed_parts and self._inbox.empty():
                return None

    def _receive(self) -> None:
        """Take in every message; waits for one when nothing is queued."""
        block = not (self._is_stopping or self._failed_parts or len(self._lanes))
        while True:
            try:
                message = self._inbox.get(block=block)
            except Empty:
                return
            block = False
            if isinstance(message, Work):
                self._lanes.add(message, self._costs)

    def _cut(self) -> Batch | None:
        if self._failed_parts:
            return self._cut_failed_part(self._failed_parts.popleft())
        lane = self._lanes.next()
        if lane is None:
            return None
        rows, cut = lane.cut(self._costs, BatchLimits(self._max_tokens, self._limits.max_rows))
        batch = self._build(rows, cut.release, waiting=len(self._lanes))
        self._lanes.account(lane, batch.predicted_s)
        return batch

    def _cut_failed_part(self, rows: list[Row]) -> Batch | None:
        now = time.perf_counter()
        wanted = [row for row in rows if row.work.is_wanted(now)]
        return self._build(wanted, Release.ISOLATED, waiting=len(self._lanes)) if wanted else None

    def _build(self, rows: list[Row], release: Release, *, waiting: int) -> Batch:
        texts = [row.tokens for row in rows]
        tokens = pad([text.ids for text in texts], [text.types for text in texts])
        predicted_s = self._costs.batch_s(tokens.rows, tokens.width)
        return Batch(rows, tokens, rows[0].work.priority, release, waiting, predicted_s)

    # -- running: what a thread does with its own batch -------------------------------------------------

    def _run(self, batch: Batch) -> bool:
        """Run a batch and hand out what came of it; False when the watchdog has taken it from this thread."""
        batch.thread = threading.current_thread()
        batch.started = time.perf_counter()
        batch.give_up_at = batch.started + self._time_limit(batch.tokens) + GRACE_S
        for row in batch.rows:
            row.work.started = row.work.started or batch.started
        with self._claiming:
            self._running.add(batch)
        error: TremplinError | None = None
        outputs: Outputs = {}
        engine = self._engine.acquire()
        try:
            outputs = _checked(engine.run(batch.tokens), engine.outputs, batch.tokens.rows)
        except TremplinError as failure:
            error = failure
        except MemoryError:
            error = EngineOutOfMemory("A batch needed more memory than there is.")
        except Exception as failure:  # the thread must outlive any bug in an adapter
            error = EngineFailed(f"The engine failed in an unexpected way ({type(failure).__name__}).")
        finished = time.perf_counter()
        with self._claiming:
            if batch.is_given_up:
                return False
            self._running.discard(batch)
        self._conclude(batch, engine, outputs, error, finished)
        return True

    def _conclude(
        self, batch: Batch, engine: Engine, outputs: Outputs, error: TremplinError | None, finished: float
    ) -> None:
        seconds = finished - batch.started
        if error is None:
            complete = _answer(batch.rows, [outputs[name] for name in engine.outputs], finished)
            self._costs.observe(batch.tokens.rows, batch.tokens.width, seconds)
            if batch.waiting:
                self._costs.observe_backlog(batch.predicted_s, sum(row.row_s for row in batch.rows))
            self._engine.succeeded(engine)
            self._regain_memory()
            self._record(batch, engine.name, seconds, failed=False)
            # Last: the event loop wakes up and asks for the interpreter, which it would not get before.
            _hand_back(complete)
        else:
            if isinstance(error, EngineOutOfMemory):
                self._max_tokens = max(1, min(self._max_tokens, batch.tokens.input_ids.size) // 2)
            self._engine.failed(engine, error)
            if isinstance(error, EngineNotRunning):
                self._put_back(batch.rows, error, finished)
            else:
                self._divide(batch.rows, error, finished)
            self._record(batch, engine.name, seconds, failed=True)

    def _regain_memory(self) -> None:
        """Grow a budget that was halved when memory ran out, by a hundredth a batch."""
        if self._max_tokens < self._limits.max_tokens:
            self._max_tokens = min(self._limits.max_tokens, self._max_tokens + self._max_tokens // 100 + 1)

    def _put_back(self, rows: list[Row], error: TremplinError, finished: float) -> None:
        """Run a batch again that met no engine, without blame, until it has met none too often."""
        time.sleep(PAUSE_S)
        for row in rows:
            row.tries += 1
        _fail([row for row in rows if row.tries >= TRIES], error, finished)
        self._failed_parts.append(rows)
        self._inbox.put(_Wake())

    def _divide(self, rows: list[Row], error: TremplinError, finished: float) -> None:
        """Run the parts of a batch that failed; a row that fails alone, and failed before, fails its request."""
        for row in rows:
            row.failures += 1
        if len(rows) == 1 and rows[0].failures >= FAILURES:
            _fail(rows, error, finished)
            return
        size = -(-len(rows) // PARTS)
        self._failed_parts.extend(rows[start : start + size] for start in range(0, len(rows), size))
        self._inbox.put(_Wake())

    def _record(self, batch: Batch, engine: str, seconds: float, *, failed: bool) -> None:
        waits = [batch.started - row.work.arrived for row in batch.rows]
        self._on_batch(
            BatchRecord(
                at=time.time() - seconds,
                engine=engine,
                priority=batch.priority,
                release=batch.release,
                rows=len(batch.rows),
                tokens=sum(row.length for row in batch.rows),
                padded_tokens=batch.tokens.input_ids.size,
                waiting=batch.waiting,
                seconds=seconds,
                predicted_s=batch.predicted_s,
                longest_wait_s=max(waits),
                shortest_wait_s=min(waits),
                failed=failed,
            )
        )

    # -- watching: a thread of its own ------------------------------------------------------------------

    def _watch_batches(self) -> None:
        probed = time.perf_counter()
        while not self._ended.wait(WATCH_EVERY_S):
            now = time.perf_counter()
            with self._claiming:
                hung = [batch for batch in self._running if now >= batch.give_up_at]
                for batch in hung:
                    batch.is_given_up = True
                    self._running.discard(batch)
                is_idle = not self._running
            for batch in hung:
                self._give_up(batch, now)
            if is_idle and not self._engine.health() and now - probed >= PROBE_EVERY_S:
                probed = now
                self._engine.probe()

    def _give_up(self, batch: Batch, now: float) -> None:
        """Go on without the thread that runs a batch for too long: it cannot be stopped, only left behind."""
        seconds = now - batch.started
        error = EngineHung(
            f"The engine did not answer a batch of {len(batch.rows)} rows within {seconds:.1f} s; "
            f"{batch.predicted_s:.3f} s were predicted. It was started anew."
        )
        log.error("batch given up", version=self._name, rows=len(batch.rows), seconds=round(seconds, 3))
        if batch.thread is not None:
            self._threads.remove(batch.thread)
        self._engine.renew()
        self._divide(batch.rows, error, now)
        self._record(batch, self._engine.name, seconds, failed=True)
        self._start_thread()


def _checked(outputs: Outputs, names: Sequence[str], rows: int) -> Outputs:
    """Return an engine's outputs; refuses any that would hand a row another row's answer, or none."""
    for name in names:
        if len(outputs[name]) != rows:
            raise EngineFailed(f"The engine gave {len(outputs[name])} rows of {name!r} for a batch of {rows}.")
    return outputs


def _answer(rows: list[Row], arrays: Sequence[NDArray[np.float32]], finished: float) -> list[Work]:
    """Hand each row its part of the outputs; returns the requests that are now answered."""
    complete: list[Work] = []
    for number, row in enumerate(rows):
        work = row.work
        work.answers[row.index] = tuple(array[number] for array in arrays)
        work.pending -= 1
        if work.pending == 0:
            work.finished = finished
            complete.append(work)
    return complete


def _fail(rows: list[Row], error: TremplinError, finished: float) -> None:
    """Fail the requests that the rows belong to, each once."""
    works = {id(row.work): row.work for row in rows if row.work.error is None}
    for work in works.values():
        work.error, work.finished = error, finished
    _hand_back(list(works.values()))


def _hand_back(works: list[Work]) -> None:
    for loop in {work.loop for work in works}:
        mine = [work for work in works if work.loop is loop]
        try:
            loop.call_soon_threadsafe(_finish, mine)
        except RuntimeError:  # the loop has closed: its callers are gone with it
            continue


def _finish(works: list[Work]) -> None:
    for work in works:
        work.on_done()
