"""The queue of one version, and the thread that owns it.

The thread is the queue's only owner. Requests reach it as messages, and whole batches of answers go back to
the event loop in one call, so two hops are paid per batch, not per request. The thread cuts the next batch
itself when the engine frees up: between two batches the engine waits for nobody.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import EngineFailed, NotReady, TremplinError
from tremplin.serve.batch import BatchLimits, choose
from tremplin.serve.engine import Engine, Outputs, pad


@dataclass(eq=False, slots=True)
class Work:
    """The rows of one request, from arrival to answer. Owned by the queue's thread once submitted."""

    rows: Sequence[list[int]]
    tokens: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Work]
    arrived: float
    started: float = 0.0
    finished: float = 0.0
    pending: int = 0
    results: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    error: TremplinError | None = None
    abandoned: bool = False
    """Set by the event loop when the caller is gone; rows still waiting are then dropped."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What one batch was, for metrics and for the operator."""

    rows: int
    tokens: int
    """Tokens without padding."""
    padded_tokens: int
    waiting: int
    """Rows left in the queue when it was cut."""
    seconds: float
    failed: bool


class _Stop:
    """Message: finish what waits, then end."""


class BatchQueue:
    """Feeds one engine with batches cut from the waiting rows."""

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits,
        *,
        name: str,
        on_batch: Callable[[BatchRecord], None] = lambda record: None,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._on_batch = on_batch
        self._inbox: SimpleQueue[Work | _Stop] = SimpleQueue()
        self._works: list[tuple[Work, int]] = []
        self._lengths: list[int] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"engine {name}", daemon=True)

    def start(self) -> None:
        """Start the thread; the engine must be loaded."""
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Hand over a request. Its future is resolved on its own event loop."""
        if self._stopping:
            raise NotReady("The server is stopping; send the request to another replica.")
        work.pending = len(work.rows)
        self._inbox.put(work)

    def stop(self) -> None:
        """Compute what is already in the queue, then end the thread and wait for it."""
        if not self._stopping:
            self._stopping = True
            self._inbox.put(_Stop())
            self._thread.join()

    # -- on the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._receive() or self._works:
            if self._works:
                self._run_next_batch()

    def _receive(self) -> bool:
        """Take in every message; waits for one when nothing is queued. Returns False after the last."""
        stopped = False
        block = not self._works and not self._stopping
        while True:
            try:
                message = self._inbox.get(block=block)
            except Empty:
                return not (self._stopping or stopped)
            block = False
            if isinstance(message, _Stop):
                stopped = True
            else:
                self._works.extend((message, index) for index in range(len(message.rows)))
                self._lengths.extend(map(len, message.rows))

    def _run_next_batch(self) -> None:
        self._drop_abandoned()
        if not self._works:
            return
        chosen = choose(self._lengths, self._limits)
        batch = [self._works[i] for i in chosen]
        self._remove(chosen)
        started = time.perf_counter()
        for work, _ in batch:
            work.started = work.started or started
        rows = [work.rows[index] for work, index in batch]
        tokens = pad(rows)
        error: TremplinError | None = None
        outputs: Outputs = {}
        try:
            outputs = _checked(self._engine.run(tokens), len(rows))
        except TremplinError as failure:
            error = failure
        except Exception as failure:  # the thread must outlive any bug in an adapter
            error = EngineFailed(f"The engine failed in an unexpected way ({type(failure).__name__}).")
        finished = time.perf_counter()
        self._deliver(batch, outputs, error, finished)
        self._on_batch(
            BatchRecord(
                rows=len(rows),
                tokens=sum(map(len, rows)),
                padded_tokens=tokens.input_ids.size,
                waiting=len(self._works),
                seconds=finished - started,
                failed=error is not None,
            )
        )

    def _drop_abandoned(self) -> None:
        if any(work.abandoned for work, _ in self._works):
            kept = [i for i, (work, _) in enumerate(self._works) if not work.abandoned]
            self._works = [self._works[i] for i in kept]
            self._lengths = [self._lengths[i] for i in kept]

    def _remove(self, chosen: list[int]) -> None:
        if len(chosen) == len(self._works):
            self._works, self._lengths = [], []
            return
        gone = set(chosen)
        self._works = [item for i, item in enumerate(self._works) if i not in gone]
        self._lengths = [length for i, length in enumerate(self._lengths) if i not in gone]

    def _deliver(
        self,
        batch: list[tuple[Work, int]],
        outputs: Outputs,
        error: TremplinError | None,
        finished: float,
    ) -> None:
        """Hand each row its part of the outputs, and each finished request to its event loop."""
        complete: list[Work] = []
        for row, (work, index) in enumerate(batch):
            if error is not None:
                work.error = error
            for name, array in outputs.items():
                if name not in work.results:
                    work.results[name] = [array[0]] * len(work.rows)
                work.results[name][index] = array[row]
            work.pending -= 1
            if work.pending == 0:
                work.finished = finished
                complete.append(work)
        for loop in {work.loop for work in complete}:
            mine = [work for work in complete if work.loop is loop]
            try:
                loop.call_soon_threadsafe(_resolve, mine)
            except RuntimeError:  # the loop has closed: its callers are gone with it
                continue


def _checked(outputs: Outputs, rows: int) -> Outputs:
    """Return an engine's outputs; refuses any that would hand a row another row's answer, or none."""
    for name, array in outputs.items():
        if len(array) != rows:
            raise EngineFailed(f"The engine gave {len(array)} rows of {name!r} for a batch of {rows}.")
    return outputs


def _resolve(works: list[Work]) -> None:
    for work in works:
        if work.future.done():
            continue
        if work.error is not None:
            work.future.set_exception(work.error)
        else:
            work.future.set_result(work)
