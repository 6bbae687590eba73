"""What travels from the event loop to the engine's threads and back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import TremplinError
from tremplin.serve.batch import Release
from tremplin.serve.call import Priority
from tremplin.serve.engine import TokenBatch

Answer = tuple[NDArray[np.float32], ...]
"""The engine's outputs for one row, in the order of ``Engine.outputs``."""


def _nobody() -> None:
    """Nobody waits for it yet."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row as the engine reads it."""

    ids: Sequence[int]
    types: Sequence[int] | None = None
    """For a pair of texts: 0 for tokens of the first, 1 for those of the second."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(eq=False, slots=True)
class Work:
    """The rows of one request, from arrival to answer.

    The event loop makes it and reads its answers once it is done; in between it belongs to the queue's threads,
    except ``abandoned`` and ``deadline``, which the event loop writes and they read.
    """

    rows: Sequence[Tokens]
    tokens: int
    priority: Priority
    loop: asyncio.AbstractEventLoop
    arrived: float
    deadline: float | None = None
    on_done: Callable[[], None] = _nobody
    """Called on the loop once every row has its answer, or one of them an error."""
    abandoned: bool = False
    """Nobody waits for the answer any more; rows still waiting are dropped."""
    started: float = 0.0
    finished: float = 0.0
    pending: int = 0
    answers: list[Answer] = field(default_factory=list)
    error: TremplinError | None = None

    def is_wanted(self, now: float) -> bool:
        """Return whether computing its rows still serves anyone.

        Whoever waits past a deadline is told by a timer of the event loop's, so nothing is answered here.
        """
        if self.abandoned or self.error is not None:
            return False
        deadline = self.deadline  # the event loop may take it away between two readings
        return deadline is None or now < deadline


@dataclass(eq=False, slots=True)
class Row:
    """One row that waits for the engine."""

    work: Work
    index: int
    """Which row of its request."""
    length: int
    row_s: float
    """The seconds that are its own, by the cost model."""
    due_s: float = 0.0
    """It must start before its lane has done this many seconds of work (``lanes.py``)."""
    failures: int = 0
    """Batches it was in that failed."""
    tries: int = 0
    """Batches it was in for which there was no engine."""

    @property
    def tokens(self) -> Tokens:
        """What the engine reads."""
        return self.work.rows[self.index]


@dataclass(eq=False, slots=True)
class Batch:
    """Rows that run together."""

    rows: list[Row]
    tokens: TokenBatch
    priority: Priority
    release: Release
    waiting: int
    """Rows left in the queue when it was cut."""
    predicted_s: float
    thread: threading.Thread | None = None
    """What runs it."""
    started: float = 0.0
    give_up_at: float = float("inf")
    is_given_up: bool = False
    """The watchdog took it from the thread that runs it; what that thread still brings is thrown away."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What one batch was, for metrics and for the operator."""

    at: float
    """Seconds since the epoch when it was started."""
    engine: str
    priority: Priority
    release: Release
    rows: int
    tokens: int
    """Tokens without padding."""
    padded_tokens: int
    waiting: int
    """Rows left in the queue when it was cut."""
    seconds: float
    predicted_s: float
    longest_wait_s: float
    shortest_wait_s: float
    failed: bool

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that were padding."""
        return 1 - self.tokens / self.padded_tokens
