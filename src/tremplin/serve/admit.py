"""Admission: say no at once when the queue is full, and say when to come back.

What is counted is tokens and the seconds they are predicted to take, because that is what the engine spends;
never requests. A request is admitted or refused whole, before anything of it is queued.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tremplin.errors import EmptyText, NotReady, Overloaded, TooManyInputs
from tremplin.serve.call import Call, Priority
from tremplin.serve.costs import CostModel
from tremplin.serve.lanes import SHARES
from tremplin.serve.promises import NEWCOMERS, Promises

# A request that would occupy the engine for longer than this is bulk, unless its caller says otherwise: nobody
# notices the wait behind a search query, everyone the one behind a thousand documents.
BULK_FROM_S = 1.0


READY_BELOW = 0.9

# English and French texts have four to five characters a token; a low guess counts a request as larger than it is.
CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class AdmissionLimits:
    """How much one request may ask, and how much may wait."""

    max_rows_per_request: int = 2048
    max_tokens_per_request: int = 131_072
    max_queue_tokens: int = 65_536
    """In each class of requests."""
    max_queue_s: float = 20.0


class Ticket(NamedTuple):
    """What an admitted request was counted as."""

    priority: Priority
    rows: int
    tokens: int
    work_s: float


class Room(NamedTuple):
    """How long a class waits, and how long it may."""

    wait_s: float
    bound_s: float
    for_newcomers_s: float
    """The part of the bound that is not kept for those who return."""
    late_by_s: float
    """How much too long the wait is for the caller's deadline."""


@dataclass
class Backlog:
    """What waits or runs in one class."""

    priority: Priority
    rows: int = 0
    tokens: int = 0
    work_s: float = 0.0
    promises: Promises = field(default_factory=Promises)


class Admission:
    """Counts the work that waits for one engine. Owned by the event loop."""

    def __init__(self, limits: AdmissionLimits, costs: CostModel, *, streams: int = 1) -> None:
        self.limits = limits
        self._costs = costs
        self._streams = streams
        self._backlogs = {priority: Backlog(priority) for priority in Priority}
        self._is_draining = False

    @property
    def queued_tokens(self) -> int:
        """Tokens admitted and not yet answered."""
        return sum(backlog.tokens for backlog in self._backlogs.values())

    @property
    def queued_rows(self) -> int:
        """Rows admitted and not yet answered."""
        return sum(backlog.rows for backlog in self._backlogs.values())

    def check_rows(self, rows: int) -> None:
        """Refuse a request without rows, or with more than one request may carry, before its text is read."""
        if rows == 0:
            raise EmptyText("The request has no input; send at least one.")
        if rows > self.limits.max_rows_per_request:
            raise TooManyInputs(
                f"The request has {rows} inputs; one request may carry {self.limits.max_rows_per_request}. "
                "Split it into several requests."
            )

    def check_open(self, texts: int, characters: int, *, request: int, call: Call) -> None:
        """Refuse a request before it is tokenized, when no newcomer of whatever size can be let in.

        Under overload most requests are refused, and what each costs is taken from those that are served.
        Raises Overloaded.
        """
        tokens = characters / CHARACTERS_PER_TOKEN
        work_s = texts * self._costs.row_s(int(tokens / texts) + 1)
        backlog = self._backlogs[self._class_of(texts, work_s, call.priority)]
        if not backlog.tokens:
            return
        now = time.perf_counter()
        room = self._room(backlog, call.deadline, now)
        if room.wait_s <= room.for_newcomers_s and not room.late_by_s:
            return
        if room.wait_s <= room.bound_s and not room.late_by_s and backlog.promises.is_due(request, now):
            return
        raise self._refusal(backlog, room, work_s * self._pace, request, now)

    def enter(
        self,
        lengths: Sequence[int],
        *,
        request: int = 0,
        priority: Priority | None = None,
        deadline: float | None = None,
    ) -> Ticket:
        """Admit a request with rows of the given lengths in tokens, and count it.

        ``request`` is a hash of what is asked, by which a caller who was told to come back is recognised.
        Raises TooManyInputs, NotReady, or Overloaded, which says when to come back.
        """
        if self._is_draining:
            raise NotReady("The server is stopping; send the request to another replica.")
        tokens = sum(lengths)
        if tokens > self.limits.max_tokens_per_request:
            raise TooManyInputs(
                f"The request has {tokens} tokens; one request may carry "
                f"{self.limits.max_tokens_per_request}. Split it into several requests."
            )
        work_s = sum(map(self._costs.row_s, lengths))
        ticket = Ticket(self._class_of(len(lengths), work_s, priority), len(lengths), tokens, work_s)
        backlog = self._backlogs[ticket.priority]
        # An empty queue admits any legal request: otherwise the largest would never be served.
        if backlog.tokens:
            self._check_room(backlog, ticket, request, deadline)
        backlog.rows += ticket.rows
        backlog.tokens += ticket.tokens
        backlog.work_s += ticket.work_s
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Count a request out, answered or not."""
        backlog = self._backlogs[ticket.priority]
        backlog.rows -= ticket.rows
        backlog.tokens -= ticket.tokens
        backlog.work_s -= ticket.work_s
        if backlog.rows == 0:
            backlog.work_s = 0.0  # sums of floats drift

    def predicted_wait_s(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Return how long what waits in a class will take, at the speed the engine has of late.

        While both classes wait each gets its share, so a class is held up by as much of the other's work as its
        own work is worth, or by all of it.
        """
        own_s = wait_s = self._backlogs[priority].work_s
        for other, backlog in self._backlogs.items():
            if other is not priority and backlog.rows:
                wait_s += min(backlog.work_s, own_s * SHARES[other] / SHARES[priority])
        return wait_s * self._pace

    def has_room(self) -> bool:
        """Return whether what waits is below READY_BELOW of its bounds; above, balancers should look elsewhere."""
        return all(
            backlog.tokens <= READY_BELOW * self.limits.max_queue_tokens
            and self.predicted_wait_s(priority) <= READY_BELOW * self.limits.max_queue_s
            for priority, backlog in self._backlogs.items()
        )

    def close(self) -> None:
        """Refuse everything from now on."""
        self._is_draining = True

    @property
    def _pace(self) -> float:
        """Seconds that pass for a second of rows' own work."""
        return self._costs.seconds_per_work / self._streams

    def _class_of(self, rows: int, work_s: float, asked: Priority | None) -> Priority:
        if asked is not None:
            return asked
        is_bulk = rows > 1 and work_s * self._pace > BULK_FROM_S
        return Priority.BULK if is_bulk else Priority.INTERACTIVE

    def _check_room(self, backlog: Backlog, ticket: Ticket, request: int, deadline: float | None) -> None:
        now = time.perf_counter()
        room, own_s = self._room(backlog, deadline, now), ticket.work_s * self._pace
        if not room.late_by_s:
            # Who returns has waited for the room that he takes, however much it is.
            if room.wait_s <= room.bound_s and backlog.promises.redeem(request, now):
                return
            if room.wait_s + own_s <= room.for_newcomers_s:
                return
        raise self._refusal(backlog, room, own_s, request, now)

    def _room(self, backlog: Backlog, deadline: float | None, now: float) -> Room:
        wait_s = self.predicted_wait_s(backlog.priority)
        # One bound for both: tokens are turned into the seconds they take.
        bound_s = min(self.limits.max_queue_s, self.limits.max_queue_tokens * wait_s / backlog.tokens)
        for_newcomers_s = NEWCOMERS * bound_s if backlog.promises.are_open(now) else bound_s
        late_by_s = 0.0 if deadline is None else max(0.0, now + wait_s - deadline)
        return Room(wait_s, bound_s, for_newcomers_s, late_by_s)

    def _refusal(self, backlog: Backlog, room: Room, own_s: float, request: int, now: float) -> Overloaded:
        room_in_s = max(0.0, room.late_by_s, room.wait_s + own_s - NEWCOMERS * room.bound_s)
        return Overloaded(
            f"The queue holds {backlog.tokens} tokens, about {room.wait_s:.1f} s of work"
            + (", more than the deadline allows" if room.late_by_s else "")
            + ". Come back when Retry-After says: a place is kept for the same request.",
            retry_after_s=backlog.promises.promise(request, own_s, room_in_s, now),
        )
