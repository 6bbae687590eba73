"""Rows that wait, one lane for each class of requests, and whose turn it is.

Within a lane a batch may take rows of near lengths before older ones. How far one may be overtaken is bounded in
work, not in time: a row that found ``b`` seconds of work before it must start before its lane has done
``PATIENCE * b`` seconds of work from then on, plus what a batch takes, since a batch is not interrupted.

Between lanes the engine's time is shared by start-time fair queueing (Goyal, Vin and Cheng, 1996): each lane's
clock advances by what its batches take over its share, and the lane whose clock is behind goes next. A lane that
was idle joins at the others' clock, so it cannot save up turns.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from tremplin.serve.batch import WINDOW, BatchLimits, Cut, choose
from tremplin.serve.call import Priority
from tremplin.serve.costs import CostModel
from tremplin.serve.work import Row, Work

# A row waits for at most this many times the work that stood before it, and one batch.
PATIENCE = 2.0

# What bulk requests get of the engine while interactive ones wait as well.
BULK_SHARE = 0.2
SHARES = {Priority.INTERACTIVE: 1 - BULK_SHARE, Priority.BULK: BULK_SHARE}


@dataclass
class Lane:
    """The waiting rows of one class, oldest first."""

    priority: Priority
    window: list[Row] = field(default_factory=list)
    """The oldest, among which a batch is chosen."""
    rest: deque[Row] = field(default_factory=deque)
    waiting_s: float = 0.0
    """Seconds of work that wait here."""
    served_s: float = 0.0
    """Seconds of work this lane has done since the start."""
    clock: float = 0.0

    def __len__(self) -> int:
        return len(self.window) + len(self.rest)

    def add(self, rows: Iterable[Row]) -> None:
        """Queue rows behind those that wait."""
        for row in rows:
            row.due_s = self.served_s + PATIENCE * self.waiting_s
            self.waiting_s += row.row_s
            self.rest.append(row)

    def fill_window(self) -> None:
        """Move the oldest rows into the window; unwanted ones are dropped on the way."""
        now = time.perf_counter()
        if any(not row.work.is_wanted(now) for row in self.window):
            self.window = [row for row in self.window if self._keep(row, now)]
        while len(self.window) < WINDOW and self.rest:
            row = self.rest.popleft()
            if self._keep(row, now):
                self.window.append(row)
        if not self.window:
            self.waiting_s = 0.0  # sums of floats drift

    def cut(self, costs: CostModel, limits: BatchLimits) -> tuple[list[Row], Cut]:
        """Take the rows of the next batch out of a window that is not empty."""
        lengths = [row.length for row in self.window]
        cut = choose(lengths, costs, limits, self._overdue(limits))
        rows = [self.window[i] for i in cut.chosen]
        if len(rows) == len(self.window):
            self.window = []
        else:
            gone = set(cut.chosen)
            self.window = [row for i, row in enumerate(self.window) if i not in gone]
        self.waiting_s -= sum(row.row_s for row in rows)
        return rows, cut

    def account(self, seconds: float) -> None:
        """Count the work of a batch that was cut here."""
        self.served_s += seconds
        self.clock += seconds / SHARES[self.priority]

    def _overdue(self, limits: BatchLimits) -> list[int]:
        """Return the rows that may not be overtaken any more, most overdue first; about two batches of them."""
        due = [i for i, row in enumerate(self.window) if row.due_s <= self.served_s and row.due_s > 0]
        # The oldest row goes in any case: while it is the only one that is due there is nothing to force.
        if not due or due == [0]:
            return []
        due.sort(key=lambda i: self.window[i].due_s)
        tokens = 0
        for count, i in enumerate(due):
            tokens += self.window[i].length
            if tokens > 2 * limits.max_tokens:
                return due[: count + 1]
        return due

    def _keep(self, row: Row, now: float) -> bool:
        if row.work.is_wanted(now):
            return True
        self.waiting_s -= row.row_s
        return False


class Lanes:
    """One lane for each class, served in turn by start-time fair queueing (Goyal, Vin and Cheng, 1996)."""

    def __init__(self) -> None:
        self._lanes = {priority: Lane(priority) for priority in Priority}
        self._virtual_s = 0.0
        """Where the lane that was served last stood: a lane that begins to wait begins there, so that it neither
        saves up the time it did not ask for, nor pays for what it had while nobody else asked."""

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def add(self, work: Work, costs: CostModel) -> None:
        """Queue a request's rows in its lane."""
        lane = self._lanes[work.priority]
        if not len(lane):
            lane.clock = max(lane.clock, self._virtual_s)
        lane.add(Row(work, index, len(tokens), costs.row_s(len(tokens))) for index, tokens in enumerate(work.rows))

    def next(self) -> Lane | None:
        """Return the lane whose turn it is, its window filled; None when no wanted row waits."""
        waiting = []
        for lane in self._lanes.values():
            lane.fill_window()
            if lane.window:
                waiting.append(lane)
        return min(waiting, key=lambda lane: lane.clock, default=None)

    def account(self, lane: Lane, seconds: float) -> None:
        """Count the work of a batch that was cut in a lane."""
        self._virtual_s = max(self._virtual_s, lane.clock)
        lane.account(seconds)

    def lane(self, priority: Priority) -> Lane:
        """Return the lane of a class."""
        return self._lanes[priority]
