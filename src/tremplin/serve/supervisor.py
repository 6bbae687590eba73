"""The engine that runs now, and when another must take its place.

An engine that failed or hung is never repaired: a new one is made, loaded and warmed up, and takes over. The old
one is closed, which ends its process if it has one; a thread that hangs in it is left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from tremplin.errors import TremplinError
from tremplin.serve.costs import CostModel
from tremplin.serve.engine import Engine, TokenBatch

# So many failed batches in a row, and the engine itself is to blame.
FAILURES_IN_A_ROW = 3

# A batch is given up after this many times what it should take, and not before a setting says: a machine that is
# busy elsewhere can be ten times slower for a second.
PATIENCE = 20.0

log = structlog.get_logger()

TimeLimit = Callable[[TokenBatch], float]
"""How many seconds a batch may take before it is given up."""


def time_limit(costs: CostModel, at_least_s: float) -> TimeLimit:
    """Return the limit that follows from what batches cost."""
    return lambda batch: max(at_least_s, PATIENCE * costs.batch_s(batch.rows, batch.width) * costs.drift)


class EngineSupervisor:
    """Holds the engine of one version; called from the queue's threads."""

    def __init__(self, make: Callable[[], Engine], *, version: str = "") -> None:
        self._make = make
        self._version = version
        self._changing = threading.Lock()
        self._failures = 0
        self._is_healthy = False
        self.current = make()
        self.restarts = 0

    @property
    def name(self) -> str:
        """The engine and its version."""
        return self.current.name

    def start(self) -> None:
        """Load and warm up the engine. Blocks; raises EngineFailed."""
        self.current.load()
        self.current.warm_up()
        self._is_healthy = True

    def close(self) -> None:
        """Free the engine."""
        self._is_healthy = False
        self.current.close()

    def health(self) -> bool:
        """Return whether batches can be expected to succeed."""
        return self._is_healthy and self.current.health()

    def acquire(self) -> Engine:
        """Return what runs the next batch; waits while it is being replaced."""
        with self._changing:
            return self.current

    def succeeded(self, engine: Engine) -> None:
        """Take note of a batch that was run."""
        if engine is self.current:
            self._failures = 0
            self._is_healthy = True

    def failed(self, engine: Engine, error: TremplinError) -> None:
        """Take note of a batch that failed; the engine is renewed after several in a row."""
        log.error("batch failed", version=self._version, error=error)
        if engine is not self.current:
            return
        self._failures += 1
        if self._failures % FAILURES_IN_A_ROW == 0:
            # The first time a new engine may do; when it fails as well, only a probe can tell when it works again.
            if self._failures >= 2 * FAILURES_IN_A_ROW:
                self._is_healthy = False
            self.renew()

    def renew(self) -> None:
        """Put a new engine in the place of the current one, which is closed."""
        with self._changing:
            was_healthy, self._is_healthy = self._is_healthy, False
            self.current.close()
            engine = self._make()
            try:
                engine.load()
                engine.warm_up()
            except TremplinError as error:
                log.exception("the engine cannot be started anew", version=self._version, error=error)
                return
            self.current = engine
            self.restarts += 1
            self._is_healthy = was_healthy
            log.warning("engine started anew", version=self._version, restarts=self.restarts)

    def probe(self) -> None:
        """Try an engine that is out of order on a small batch; called while nothing runs."""
        try:
            self.current.warm_up()
        except TremplinError:
            self.renew()
        else:
            self._is_healthy = True
