"""A load generator that costs little enough to measure a server from the neighbouring core.

- ``closed_loop``: so many connections, each with one request under way; finds what a server can do.
- ``open_loop``: requests leave when a Poisson process says so, whether or not the server keeps up, and a latency
  counts from the moment a request was *meant* to leave. A server that stalls is charged for everybody it kept
  waiting (no coordinated omission). Clients may obey a refusal: wait as told, send the same request once more.

HTTP/1.1 is spoken on plain sockets: a client library costs more than the server's part that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

UNANSWERED = 0
"""Stands for a status where none came: the connection broke, or the run ended before the answer."""

# A server that does not answer a request within this is done with it; so is its client.
DRAIN_S = 30.0
LAST_ANSWER_S = 5.0
# What an open loop may hold open at a time; a request above it waits in the client, and the wait counts.
MOST_CONNECTIONS = 1024
# A client that is told nothing waits this long; a closed loop must not hammer a server that says no.
PAUSE_S = 0.05

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.I)
_CLOSES = re.compile(rb"\r\nconnection:\s*close", re.I)
_RETRY_MS = re.compile(rb"\r\nretry-after-ms:\s*([\d.]+)", re.I)
_RETRY_S = re.compile(rb"\r\nretry-after:\s*([\d.]+)", re.I)

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Where a server listens."""

    host: str
    port: int

    def request(self, path: str, body: bytes, **headers: str) -> bytes:
        """Return a POST as it goes over the wire; underscores in header names stand for hyphens."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n{lines}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Outcome(NamedTuple):
    """What became of one request. Times in seconds; ``meant_at`` since the start of the run."""

    status: int
    meant_at: float
    latency_s: float
    """From when it was meant to leave until the answer was whole."""
    retry_after_s: float | None = None
    """What a refusal told the client to wait."""
    attempt: int = 0
    """1 when the client had been refused before and came back as told."""
    number: int = 0
    """Which of the requests given it was."""

    @property
    def ended_at(self) -> float:
        return self.meant_at + self.latency_s


@dataclass(frozen=True)
class Run:
    """Everything sent in a run, until the last answer.

    Of an open loop those requests count that were meant to leave in the window after the warm-up. Of a closed loop
    all count, over the time until the last answer: some servers answer in waves, and a window would cut one.
    """

    outcomes: list[Outcome]
    warm_s: float
    seconds: float
    """End of the window, since the start of the run; of a closed loop the last answer."""
    is_open: bool
    not_retried: int = 0
    """Refused clients that were told to come back after the end of the run."""
    lag_s: float = 0.0
    """How late the client itself was, for 99 of 100 requests; when it is much, the figures are the client's."""

    @property
    def window_s(self) -> float:
        return self.seconds - self.warm_s

    @property
    def counted(self) -> list[Outcome]:
        if not self.is_open:
            return self.outcomes
        return [o for o in self.outcomes if self.warm_s <= o.meant_at < self.seconds]

    @property
    def statuses(self) -> dict[int, int]:
        return dict(Counter(outcome.status for outcome in self.counted))

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.goodput(math.inf)

    def goodput(self, bound_s: float, weights: Sequence[float] | None = None) -> float:
        """Answers with status 200 within the bound, per second; or what they weigh, by the request's number."""
        good = (o for o in self.counted if o.status == 200 and o.latency_s <= bound_s)
        return sum(weights[o.number] if weights else 1.0 for o in good) / self.window_s

    def kept(self, bound_s: float) -> float:
        """The share of everything counted that was answered with 200 within the bound."""
        counted = self.counted
        good = sum(o.status == 200 and o.latency_s <= bound_s for o in counted)
        return good / len(counted) if counted else 0.0

    def latency_s(self, percent: float, attempt: int | None = None) -> float:
        """The latency that so many percent of the answers with status 200 do not exceed; NaN without answers."""
        chosen = [o for o in self.counted if o.status == 200 and (attempt is None or o.attempt == attempt)]
        return nearest_rank([o.latency_s for o in chosen], percent)

    def checked(self) -> Run:
        """Return the run; raises RuntimeError when anything was refused, failed or went unanswered."""
        if set(self.statuses) != {200}:
            raise RuntimeError(f"answers by status: {self.statuses}; only 200 was expected here")
        return self

    @property
    def retries_that_succeed(self) -> float:
        """The share of first retries answered with 200, over the whole run; NaN when nobody was refused."""
        retried = [o.status for o in self.outcomes if o.attempt]
        return sum(status == 200 for status in retried) / len(retried) if retried else math.nan

    def summary(self) -> str:
        """One line for people."""
        answers = ", ".join(f"{status or 'none'} x {n}" for status, n in sorted(self.statuses.items()))
        cuts = " / ".join(f"{self.latency_s(q) * 1e3:.1f}" for q in (50, 90, 99, 99.9))
        waits = [o.retry_after_s for o in self.outcomes if o.retry_after_s is not None]
        told = f"; told to wait {min(waits):.2f} .. {max(waits):.2f} s" if waits else ""
        lag = f"; client late by {self.lag_s * 1e3:.1f} ms" if self.is_open else ""
        return f"{self.rate:.1f}/s; {answers}; p50 / p90 / p99 / p99.9 {cuts} ms{told}{lag}"


def nearest_rank(values: Sequence[float], percent: float) -> float:
    """Return the least value that so many percent do not exceed; NaN when there is none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def run_load(main: Coroutine[Any, Any, T]) -> T:
    """Run a load on uvloop where it is installed: half the cost a request."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, on_answer: Callable[[Connection, int, float | None], None]) -> None:
        self._on_answer = on_answer
        self._buffer = bytearray()
        self._body_at = 0
        self._ends_at: int | None = None
        """Length of the whole answer; None while unknown or chunked."""
        self._head = b""
        self._is_busy = False
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.is_open = True

    def send(self, request: bytes) -> None:
        """Send a request; its answer goes to ``on_answer``."""
        self._is_busy = True
        self._transport.write(request)

    def close(self) -> None:
        """Close; what is under way is forgotten."""
        self._is_busy = False
        self._transport.abort()

    def abort(self) -> None:
        """Close; what is under way counts as unanswered."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._body_at:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(buffer[: end + 2])
            self._body_at = end + 4
            if length := _LENGTH.search(self._head):
                self._ends_at = self._body_at + int(length.group(1))
            elif not _CHUNKED.search(self._head):
                raise RuntimeError(f"an answer of unknown length: {self._head[:200]!r}")
        if self._ends_at is None:
            if not buffer.endswith(b"0\r\n\r\n"):  # the chunk that ends the answer
                return
        elif len(buffer) < self._ends_at:
            return
        self._finish(int(self._head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._is_busy:
            self._is_busy = False
            self._on_answer(self, UNANSWERED, None)

    def _finish(self, status: int) -> None:
        head = self._head
        retry_after_s = None
        if status in (429, 503):
            if told := _RETRY_MS.search(head):
                retry_after_s = float(told.group(1)) / 1e3
            elif told := _RETRY_S.search(head):
                retry_after_s = float(told.group(1))
        if _CLOSES.search(head):
            self.is_open = False
            self._transport.abort()
        self._buffer.clear()
        self._body_at, self._ends_at, self._is_busy = 0, None, False
        self._on_answer(self, status, retry_after_s)


async def closed_loop(
    target: Target,
    requests: Sequence[bytes],
    connections: int,
    *,
    seconds: float = 3600.0,
    count: int | None = None,
) -> Run:
    """Send one request after the other on each connection, until the time is over or ``count`` were sent.

    What is under way at the end is waited for, so that the next run meets an idle server.
    """

    loop = asyncio.get_running_loop()
    outcomes: list[Outcome] = []
    opened: list[Connection] = []
    pending = itertools.islice(itertools.cycle(enumerate(requests)), count)
    started = until = math.inf
    everybody_in, go = asyncio.Event(), asyncio.Event()

    async def one() -> None:
        answered: asyncio.Future[tuple[int, float | None]]
        connection: Connection | None = None

        def on_answer(_: Connection, status: int, retry_after_s: float | None) -> None:
            answered.set_result((status, retry_after_s))

        while time.perf_counter() < until:
            if connection is None or not connection.is_open:
                try:
                    connection = await _connect(target, on_answer)
                except OSError:
                    await asyncio.sleep(PAUSE_S)
                    continue
                opened.append(connection)
                if len(opened) == connections:
                    everybody_in.set()
            await go.wait()
            number, request = next(pending, (0, None))
            if request is None:
                break
            answered = loop.create_future()
            sent_at = time.perf_counter()
            connection.send(request)
            status, retry_after_s = await answered
            now = time.perf_counter()
            outcomes.append(Outcome(status, sent_at - started, now - sent_at, retry_after_s, number=number))
            if status != 200:
                await asyncio.sleep(max(min(retry_after_s or PAUSE_S, until - now), 0))
        if connection is not None and connection.is_open:
            connection.close()

    def end() -> None:
        for connection in opened:
            connection.abort()

    clients = [asyncio.ensure_future(one()) for _ in range(connections)]
    await asyncio.wait_for(everybody_in.wait(), DRAIN_S)
    started = time.perf_counter()
    until = started + seconds
    go.set()
    last = loop.call_later(seconds + DRAIN_S, end)
    await asyncio.gather(*clients)
    last.cancel()
    return Run(outcomes, 0.0, max(o.ended_at for o in outcomes), is_open=False)


@dataclass
class _Sender:
    """Sends each request on a free connection, or a new one, or waits for one when all are taken."""

    target: Target
    most: int
    on_answer: Callable[[Any, int, float | None], None]
    opened: int = 0
    idle: list[Connection] = field(default_factory=list)
    waiting: deque[tuple[bytes, Any]] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    under_way: dict[Connection, Any] = field(default_factory=dict)

    def send(self, request: bytes, mark: Any) -> None:
        """Send a request; ``mark`` comes back with its answer."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                self._send_on(connection, request, mark)
                return
            self.opened -= 1
        if self.opened >= self.most:
            self.waiting.append((request, mark))
            return
        self.opened += 1
        task = asyncio.ensure_future(self._open(request, mark))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def close(self) -> None:
        """Close every connection; what is under way or waits for one counts as unanswered."""
        for connection in (*self.under_way, *self.idle):
            connection.close()
        for mark in (*self.under_way.values(), *(mark for _, mark in self.waiting)):
            self.on_answer(mark, UNANSWERED, None)

    async def _open(self, request: bytes, mark: Any) -> None:
        try:
            connection = await _connect(self.target, self._answered)
        except OSError:
            self.opened -= 1
            self.on_answer(mark, UNANSWERED, None)
            return
        self._send_on(connection, request, mark)

    def _send_on(self, connection: Connection, request: bytes, mark: Any) -> None:
        self.under_way[connection] = mark
        connection.send(request)

    def _answered(self, connection: Connection, status: int, retry_after_s: float | None) -> None:
        mark = self.under_way.pop(connection, None)
        if mark is None:
            return
        self.on_answer(mark, status, retry_after_s)
        if self.waiting and connection.is_open:
            self._send_on(connection, *self.waiting.popleft())
        elif connection.is_open:
            self.idle.append(connection)
        else:
            self.opened -= 1
            if self.waiting:
                self.send(*self.waiting.popleft())


class _Mark(NamedTuple):
    request: bytes
    number: int
    meant_at: float
    attempt: int


async def open_loop(
    target: Target,
    requests: Sequence[bytes],
    rate: float,
    *,
    seconds: float,
    warm_s: float = 0.0,
    obedient: bool = False,
    give_up: Callable[[list[Outcome]], bool] | None = None,
    drain_s: float = DRAIN_S,
    most_connections: int = MOST_CONNECTIONS,
    seed: int = 0,
) -> Run:
    """Send ``rate`` requests per second, as a Poisson process, and wait for the answers.

    ``obedient`` clients that are refused with 429 wait as ``retry-after-ms`` or ``Retry-After`` says and send the
    same request once more; they are waited for up to ``drain_s`` after the end. ``give_up`` ends a run early when
    what was answered so far decides it.
    """
    outcomes: list[Outcome] = []
    draw = random.Random(seed)
    started = time.perf_counter()
    left = 0
    not_retried = 0
    until = warm_s + seconds
    loop = asyncio.get_running_loop()
    all_done = asyncio.Event()

    def on_answer(mark: _Mark, status: int, retry_after_s: float | None) -> None:
        nonlocal left, not_retried
        now = time.perf_counter() - started
        outcomes.append(
            Outcome(status, mark.meant_at, now - mark.meant_at, retry_after_s, mark.attempt, mark.number)
        )
        if obedient and status == 429 and mark.attempt == 0 and retry_after_s is not None:
            back_at = now + retry_after_s
            if back_at < until + drain_s:
                loop.call_later(retry_after_s, submit, _Mark(mark.request, mark.number, back_at, 1))
                return
            not_retried += 1
        left -= 1
        if left == 0:
            all_done.set()

    sender = _Sender(target, most_connections, on_answer)

    def submit(mark: _Mark) -> None:
        sender.send(mark.request, mark)

    meant_at = draw.expovariate(rate)
    number = 0
    lags = [0.0]
    while meant_at < until:
        now = time.perf_counter() - started
        if meant_at > now:
            await asyncio.sleep(meant_at - now)
            if give_up and give_up(outcomes):
                until = min(until, time.perf_counter() - started)
            continue
        left += 1
        all_done.clear()
        lags.append(now - meant_at)
        submit(_Mark(requests[number % len(requests)], number % len(requests), meant_at, 0))
        number += 1
        meant_at += draw.expovariate(rate)
        if number % 64 == 0:
            await asyncio.sleep(0)  # answers are read even when the generator has fallen behind
    if left:
        # What was told to come back at the last moment needs a moment more.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_done.wait(), drain_s + LAST_ANSWER_S)
    sender.close()
    return Run(
        outcomes, min(warm_s, until), until, is_open=True, not_retried=not_retried, lag_s=nearest_rank(lags, 99)
    )


async def _connect(target: Target, on_answer: Callable[[Connection, int, float | None], None]) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(on_answer), target.host, target.port)
    return connection
