"""One version, ready to answer: cache, tokenizer, admission, queue and engine joined."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import DeadlinePassed, EngineFailed, NotServable
from tremplin.registry.manifest import Manifest
from tremplin.serve.admit import CHARACTERS_PER_TOKEN, Admission, Ticket
from tremplin.serve.batch import BatchLimits
from tremplin.serve.cache import CachedRow, CacheKeys, NoCache, ResultCache
from tremplin.serve.call import ANYONE, Call, Priority
from tremplin.serve.costs import CostModel
from tremplin.serve.engine import SERVED_OUTPUT, TOKEN_OUTPUTS, Engine
from tremplin.serve.queue import BatchQueue
from tremplin.serve.supervisor import EngineSupervisor, TimeLimit
from tremplin.serve.timing import Timings
from tremplin.serve.tokenize import Encoded, TextTokenizer
from tremplin.serve.work import Answer, BatchRecord, Tokens, Work

# Up to here tokenizing costs less than handing it to a thread (34 us for a short text, 60 us for the hand-over).
INLINE_CHARACTERS = 4_000


@dataclass(frozen=True, slots=True)
class Inference:
    """The outputs for the rows of one request, in the request's order."""

    names: Sequence[str]
    """The engine's outputs."""
    rows: list[CachedRow]
    timings: Timings

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row; an output per token has as many rows."""
        return [row.tokens for row in self.rows]

    @property
    def is_truncated(self) -> list[bool]:
        """For each row whether it was cut to what the model reads."""
        return [row.is_truncated for row in self.rows]

    def output(self, name: str) -> list[NDArray[np.float32]]:
        """Return one output of the graph, one array per row."""
        column = list(self.names).index(name)
        return [row.answer[column] for row in self.rows]

    def stacked(self, name: str) -> NDArray[np.float32]:
        """Return one output as one array, rows first."""
        rows = self.output(name)
        # np.stack takes 13 us even for the one row that most requests have.
        return rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)


HasTruncated = TypeVar("HasTruncated", Encoded, Inference)


@dataclass(eq=False, slots=True)
class Flight:
    """One computation and whoever waits for it: the request that began it, and others that ask for the same."""

    work: Work
    ticket: Ticket
    keys: list[bytes]
    """Of the work's rows; empty when nobody else may join."""
    is_truncated: list[bool]
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    has_landed: bool = False

    def board(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return what one more request waits on."""
        waiter: asyncio.Future[None] = loop.create_future()
        self.waiters.append(waiter)
        if self.has_landed:
            self.tell()
        return waiter

    def tell(self) -> None:
        """Tell everyone who still waits what became of it."""
        for waiter in self.waiters:
            if waiter.done():
                continue
            if self.work.error is not None:
                waiter.set_exception(self.work.error)
            else:
                waiter.set_result(None)

    def leave(self, waiter: asyncio.Future[None]) -> bool:
        """Let a request go; returns whether it was the last, and nobody needs the rest of the computation."""
        if waiter.done() and not waiter.cancelled():
            waiter.exception()  # one that nobody looks at would be logged
        waiter.cancel()
        return not self.has_landed and all(other.done() for other in self.waiters)


class Inferencer:
    """Answers requests with one version. Its methods are called from the event loop, but for start and stop."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: TextTokenizer,
        make_engine: Callable[[], Engine],
        admission: Admission,
        costs: CostModel,
        limits: BatchLimits,
        time_limit: TimeLimit,
        *,
        streams: int = 1,
        cache: ResultCache | None = None,
        broken_bounds: tuple[str, ...] = (),
        on_batch: Callable[[Manifest, BatchRecord], None] = lambda manifest, record: None,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.engine = EngineSupervisor(make_engine, version=manifest.ref)
        self.admission = admission
        self.costs = costs
        self.limits = limits
        self.broken_bounds = broken_bounds
        self._most_characters = int(CHARACTERS_PER_TOKEN * manifest.interface.max_tokens)
        self._has_token_outputs = False
        self._users = 0
        self._unused = asyncio.Event()
        self._cache: ResultCache = cache or NoCache()
        self.keys = CacheKeys(manifest)
        self._flights: dict[bytes, tuple[Flight, int]] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._queue = BatchQueue(
            self.engine,
            costs,
            limits,
            time_limit,
            name=manifest.ref,
            streams=streams,
            on_batch=lambda record: on_batch(manifest, record),
        )

    def start(self) -> None:
        """Load the engine, warm it up and start its queue. Blocks; call it before serving.

        Raises EngineFailed for a damaged graph, NotServable for one that no service can answer with.
        """
        self.engine.start()
        task = self.manifest.interface.task
        if SERVED_OUTPUT.get(task) not in self.engine.current.outputs:
            served = " and ".join(f"{name} ({output})" for name, output in SERVED_OUTPUT.items())
            raise NotServable(
                f"{self.manifest.ref} does {task} and answers {', '.join(self.engine.current.outputs)}; "
                f"services exist for {served}."
            )
        self._has_token_outputs = not TOKEN_OUTPUTS.isdisjoint(self.engine.current.outputs)
        self._queue.start()

    def stop(self) -> None:
        """Answer what is queued, then free the engine. Blocks."""
        self.admission.close()
        self._queue.stop()
        self.engine.close()

    async def wait_unused(self) -> None:
        """Wait until no request holds this version; it may be stopped then, when nobody finds it any more."""
        if self._users:
            await self._unused.wait()

    async def infer(self, texts: Sequence[str], call: Call = ANYONE, *, truncate: bool = True) -> Inference:
        """Return the outputs for each text; raises BadInput, Unavailable or EngineFailed errors."""
        self.admission.check_rows(len(texts))
        self.tokenizer.check_texts(texts)

        async def encode(numbers: Sequence[int]) -> Encoded:
            chosen = [texts[number] for number in numbers]
            if sum(map(len, chosen)) <= INLINE_CHARACTERS:
                encoded = self.tokenizer.encode(chosen)
            else:
                encoded = await asyncio.to_thread(self.tokenizer.encode, chosen)
            return self._checked(encoded, numbers, truncate)

        keys = self.keys.of_texts(call.tenant, texts)
        inference = await self._infer(keys, list(map(len, texts)), encode, call)
        return self._checked(inference, range(len(texts)), truncate)

    async def infer_pairs(
        self, pairs: Sequence[tuple[str, str]], call: Call = ANYONE, *, truncate: bool = True
    ) -> Inference:
        """Return the outputs for each pair of texts, for a version that reads two texts at once."""
        self.admission.check_rows(len(pairs))
        self.tokenizer.check_texts([text for pair in pairs for text in pair])

        async def encode(numbers: Sequence[int]) -> Encoded:
            encoded = await asyncio.to_thread(self.tokenizer.encode_pairs, [pairs[number] for number in numbers])
            return self._checked(encoded, numbers, truncate)

        keys, characters = self.keys.of_pairs(call.tenant, pairs), [len(a) + len(b) for a, b in pairs]
        inference = await self._infer(keys, characters, encode, call)
        return self._checked(inference, range(len(pairs)), truncate)

    async def infer_ids(
        self, rows: Sequence[Sequence[int]], call: Call = ANYONE, *, types: Sequence[Sequence[int]] | None = None
    ) -> Inference:
        """Return the outputs for rows of token ids the caller made himself, and perhaps their token types."""
        self.admission.check_rows(len(rows))
        checked = self.tokenizer.check_ids(rows)

        async def encode(numbers: Sequence[int]) -> Encoded:
            found = [Tokens(checked[number], types[number] if types else None) for number in numbers]
            return Encoded(found, [False] * len(numbers))

        # No token id is negative, so a -1 keeps rows with types apart from longer rows without.
        read = [[*ids, -1, *of_row] for ids, of_row in zip(checked, types, strict=True)] if types else checked
        characters = [int(CHARACTERS_PER_TOKEN * len(ids)) for ids in checked]
        return await self._infer(self.keys.of_ids(call.tenant, read), characters, encode, call)

    def _checked(self, rows: HasTruncated, numbers: Sequence[int], truncate: bool) -> HasTruncated:
        """Return what was encoded or answered; refuses what was cut for a caller who does not allow it."""
        if not truncate:
            self.tokenizer.refuse_truncated(rows.is_truncated, numbers)
        return rows

    # -- cache, coalescing, queue -----------------------------------------------------------------------

    async def _infer(
        self,
        keys: list[bytes],
        characters: list[int],
        encode: Callable[[Sequence[int]], Awaitable[Encoded]],
        call: Call,
    ) -> Inference:
        self._users += 1
        self._unused.clear()
        seats: list[tuple[Flight, asyncio.Future[None]]] = []
        try:
            found = await self._cache.get(keys) if call.use_cache else [None] * len(keys)
            missing = {key: number for number, key in enumerate(keys) if found[number] is None}
            if not missing:
                cached = [row for row in found if row is not None]
                return Inference(self.engine.current.outputs, cached, _timings(cached, cached=len(cached)))
            joined = {key: flight for key in missing if (flight := self._flight(key, call)) is not None}
            begun = {key: number for key, number in missing.items() if key not in joined}
            flights = list({id(flight): flight for flight, _ in joined.values()}.values())
            loop = asyncio.get_running_loop()
            # At once: a flight that its last passenger leaves is dropped.
            seats += [(flight, flight.board(loop)) for flight in flights]
            own, tokenize_s = None, 0.0
            try:
                if begun:
                    size = sum(min(characters[number], self._most_characters) for number in begun.values())
                    own, tokenize_s = await self._take_off(begun, size, encode, call)
                    seats.insert(0, (own, own.board(loop)))
                await _wait(seats, call)
            except EngineFailed:
                self._leave(seats)
                failed = [flight for flight in flights if flight.work.error is not None]
                if (own is not None and own.work.error is not None) or all(
                    missing.keys() >= set(flight.keys) for flight in failed
                ):
                    raise
                # A row that this call did not ask for may be to blame: it goes on by itself.
                return await self._infer(keys, characters, encode, replace(call, use_cache=False))
            return self._collect(keys, found, missing, joined, own, tokenize_s)
        finally:
            self._leave(seats)
            self._users -= 1
            if not self._users:
                self._unused.set()

    def _flight(self, key: bytes, call: Call) -> tuple[Flight, int] | None:
        """Return the computation of a row that is under way and that this call may wait for."""
        found = self._flights.get(key)
        if found is None or not call.use_cache:
            return None
        work = found[0].work
        # Whoever asks now must not wait in the lane of those who can wait.
        if work.priority is Priority.BULK and call.priority is not Priority.BULK:
            return None
        deadline = work.deadline
        if deadline is not None:  # it must not be dropped while this call waits
            work.deadline = None if call.deadline is None else max(deadline, call.deadline)
            # In this order: a thread that saw the old deadline pass may have dropped the row already.
            if time.perf_counter() >= deadline:
                return None
        return found

    async def _take_off(
        self,
        begun: dict[bytes, int],
        characters: int,
        encode: Callable[[Sequence[int]], Awaitable[Encoded]],
        call: Call,
    ) -> tuple[Flight, float]:
        """Queue the rows that nobody computes yet; returns their flight and the seconds tokenizing took."""
        keys = list(begun)
        request = hash(tuple(keys))
        self.admission.check_open(len(keys), characters, request=request, call=call)
        started = time.perf_counter()
        encoded = await encode(list(begun.values()))
        arrived = time.perf_counter()
        ticket = self.admission.enter(
            encoded.lengths, request=request, priority=call.priority, deadline=call.deadline
        )
        loop = asyncio.get_running_loop()
        work = Work(encoded.rows, ticket.tokens, ticket.priority, loop, arrived, call.deadline)
        flight = Flight(work, ticket, keys if call.use_cache else [], encoded.is_truncated)
        work.on_done = partial(self._land, flight)
        try:
            self._queue.submit(work)
        except BaseException:
            self.admission.leave(ticket)
            raise
        for index, key in enumerate(flight.keys):
            self._flights[key] = (flight, index)
        return flight, arrived - started

    def _leave(self, seats: list[tuple[Flight, asyncio.Future[None]]]) -> None:
        """Wait for nothing any more; what nobody waits for is dropped."""
        for flight, waiter in seats:
            if flight.leave(waiter):
                flight.work.abandoned = True
                self._count_out(flight)
        seats.clear()

    def _land(self, flight: Flight) -> None:
        """Take a finished work back on the event loop: tell who waits, keep what was computed."""
        if flight.has_landed:
            return
        self._count_out(flight)
        flight.tell()
        if flight.work.error is None and flight.keys and not isinstance(self._cache, NoCache):
            rows = [(key, _own_memory(self._row(flight, index))) for index, key in enumerate(flight.keys)]
            writing = asyncio.ensure_future(self._cache.put(rows))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    def _count_out(self, flight: Flight) -> None:
        flight.has_landed = True
        self.admission.leave(flight.ticket)
        for key in flight.keys:
            found = self._flights.get(key)
            if found is not None and found[0] is flight:
                del self._flights[key]

    def _collect(
        self,
        keys: list[bytes],
        found: Sequence[CachedRow | None],
        missing: dict[bytes, int],
        joined: dict[bytes, tuple[Flight, int]],
        own: Flight | None,
        tokenize_s: float,
    ) -> Inference:
        computed: dict[bytes, CachedRow] = {key: self._row(*joined[key]) for key in joined}
        if own is not None:
            mine = [key for key in missing if key not in joined]
            computed |= {key: self._row(own, index) for index, key in enumerate(mine)}
        rows = [row if row is not None else computed[key] for key, row in zip(keys, found, strict=True)]
        flights = [own] if own is not None else [flight for flight, _ in joined.values()]
        work = max((flight.work for flight in flights), key=lambda work: work.finished)
        timings = _timings(
            rows,
            tokenize_ms=tokenize_s * 1e3,
            queue_ms=max(0.0, work.started - work.arrived) * 1e3,
            compute_ms=(work.finished - work.started) * 1e3,
            cached=sum(row is not None for row in found),
        )
        return Inference(self.engine.current.outputs, rows, timings)

    def _row(self, flight: Flight, index: int) -> CachedRow:
        """Return what one row was answered, without the padding its batch gave it."""
        answer, tokens = flight.work.answers[index], len(flight.work.rows[index])
        if self._has_token_outputs:
            names = self.engine.current.outputs
            answer = tuple(
                array[:tokens] if name in TOKEN_OUTPUTS else array
                for name, array in zip(names, answer, strict=True)
            )
        return CachedRow(answer, tokens, flight.is_truncated[index])


def _timings(rows: Sequence[CachedRow], *, cached: int, **phases: float) -> Timings:
    tokens = sum(row.tokens for row in rows)
    return Timings(tokens=tokens, truncated=sum(row.is_truncated for row in rows), cached=cached, **phases)


def _own_memory(row: CachedRow) -> CachedRow:
    answer: Answer = tuple(np.array(array) for array in row.answer)
    return CachedRow(answer, row.tokens, row.is_truncated)


async def _wait(seats: Sequence[tuple[Flight, asyncio.Future[None]]], call: Call) -> None:
    """Wait until the flights have landed, the caller's deadline has passed or the caller is gone."""
    waiters = [waiter for _, waiter in seats]
    timer = None
    if call.deadline is not None:
        loop, arrived = asyncio.get_running_loop(), seats[0][0].work.arrived
        timer = loop.call_later(call.deadline - time.perf_counter(), _expire, waiters, arrived)
    try:
        for waiter in waiters:
            await waiter
    finally:
        if timer is not None:
            timer.cancel()


def _expire(waiters: Sequence[asyncio.Future[None]], arrived: float) -> None:
    waited_s = time.perf_counter() - arrived
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(
                DeadlinePassed(
                    f"The deadline passed after {waited_s:.3f} s, before the answer was there. "
                    "Ask again with more time, or when the server is less busy."
                )
            )
