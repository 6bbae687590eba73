"""One version, ready to answer: tokenizer, admission, queue and engine joined."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import NotServable
from tremplin.registry.manifest import Manifest
from tremplin.serve.admit import Admission
from tremplin.serve.batch import BatchLimits
from tremplin.serve.engine import SERVED_OUTPUT, Engine
from tremplin.serve.queue import BatchQueue, BatchRecord, Work
from tremplin.serve.timing import Timings
from tremplin.serve.tokenize import TextTokenizer

# Up to here tokenizing costs less than handing it to a thread (34 us for a short text, 60 us for the hand-over).
INLINE_CHARACTERS = 4_000


@dataclass(frozen=True, slots=True)
class Inference:
    """The outputs for the rows of one request, in the request's order."""

    outputs: dict[str, list[NDArray[np.float32]]]
    """For each output of the graph, one array per row."""
    lengths: list[int]
    """Tokens of each row; what an output holds beyond them is padding."""
    timings: Timings

    def stacked(self, name: str) -> NDArray[np.float32]:
        """Return one output as one array, rows first."""
        rows = self.outputs[name]
        # np.stack takes 13 us even for the one row that most requests have.
        return rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)


class Inferencer:
    """Answers requests with one version."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: TextTokenizer,
        engine: Engine,
        admission: Admission,
        limits: BatchLimits,
        *,
        broken_bounds: tuple[str, ...] = (),
        on_batch: Callable[[Manifest, BatchRecord], None] = lambda manifest, record: None,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.engine = engine
        self.admission = admission
        self.limits = limits
        self.broken_bounds = broken_bounds
        self._on_batch = on_batch
        self._queue = BatchQueue(engine, limits, name=manifest.ref, on_batch=self._observe)

    def start(self) -> None:
        """Load the engine, warm it up and start its queue. Blocks; call it before serving.

        Raises EngineFailed for a damaged graph, NotServable for one that no service can answer with.
        """
        self.engine.load()
        task = self.manifest.interface.task
        if SERVED_OUTPUT.get(task) not in self.engine.outputs:
            served = " and ".join(f"{name} ({output})" for name, output in SERVED_OUTPUT.items())
            raise NotServable(
                f"{self.manifest.ref} does {task} and answers {', '.join(self.engine.outputs)}; "
                f"services exist for {served}."
            )
        self.engine.warm_up()
        self._queue.start()

    def stop(self) -> None:
        """Answer what is queued, then free the engine. Blocks."""
        self.admission.close()
        self._queue.stop()
        self.engine.close()

    async def infer(self, texts: Sequence[str], *, truncate: bool = True) -> Inference:
        """Return the outputs for each text; raises BadInput, Unavailable or EngineFailed errors."""
        self.admission.check_rows(len(texts))
        started = time.perf_counter()
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            encoded = self.tokenizer.encode(texts, truncate=truncate)
        else:
            encoded = await asyncio.to_thread(self.tokenizer.encode, texts, truncate=truncate)
        return await self._run(encoded.rows, time.perf_counter() - started, encoded.truncated)

    async def infer_ids(self, rows: Sequence[Sequence[int]]) -> Inference:
        """Return the outputs for rows of token ids the caller made himself."""
        self.admission.check_rows(len(rows))
        return await self._run(self.tokenizer.check_ids(rows), 0.0, 0)

    async def _run(self, rows: list[list[int]], tokenize_s: float, truncated: int) -> Inference:
        lengths = list(map(len, rows))
        tokens = sum(lengths)
        self.admission.enter(len(rows), tokens)
        loop = asyncio.get_running_loop()
        work = Work(rows, tokens, loop, loop.create_future(), time.perf_counter())
        try:
            self._queue.submit(work)
            await work.future
        except asyncio.CancelledError:
            work.abandoned = True
            raise
        finally:
            self.admission.leave(len(rows), tokens)
        timings = Timings(
            tokenize_ms=tokenize_s * 1e3,
            queue_ms=(work.started - work.arrived) * 1e3,
            compute_ms=(work.finished - work.started) * 1e3,
            tokens=tokens,
            truncated=truncated,
        )
        return Inference(work.results, lengths, timings)

    def _observe(self, record: BatchRecord) -> None:
        if not record.failed:
            self.admission.observe(record.tokens, record.seconds)
        self._on_batch(self.manifest, record)
