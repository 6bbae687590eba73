"""Admission: say no at once when the queue is full, and say when to come back.

What is counted is tokens, because they are what the engine spends its time on; a request is admitted or
refused whole, before anything of it is queued.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tremplin.errors import EmptyText, NotReady, Overloaded, TooManyInputs

# openai-python stops retrying by itself above two minutes.
MAX_RETRY_AFTER_S = 120.0


@dataclass(frozen=True)
class AdmissionLimits:
    """How much one request may ask, and how much may wait."""

    max_rows_per_request: int = 2048
    max_tokens_per_request: int = 131_072
    max_queue_tokens: int = 65_536
    max_queue_s: float = 20.0


class Admission:
    """Counts the tokens that wait for one engine. Owned by the event loop."""

    def __init__(self, limits: AdmissionLimits, *, tokens_per_s: float) -> None:
        self.limits = limits
        self._tokens_per_s = max(tokens_per_s, 1.0)
        self._draining = False
        self.queued_tokens = 0
        self.queued_rows = 0

    def check_rows(self, rows: int) -> None:
        """Refuse a request without rows, or with more than one request may carry, before its text is read."""
        if rows == 0:
            raise EmptyText("The request has no input; send at least one.")
        if rows > self.limits.max_rows_per_request:
            raise TooManyInputs(
                f"The request has {rows} inputs; one request may carry {self.limits.max_rows_per_request}. "
                "Split it into several requests."
            )

    def enter(self, rows: int, tokens: int) -> None:
        """Admit a request and count it; raises Overloaded, TooManyInputs or NotReady."""
        if self._draining:
            raise NotReady("The server is stopping; send the request to another replica.")
        if tokens > self.limits.max_tokens_per_request:
            raise TooManyInputs(
                f"The request has {tokens} tokens; one request may carry "
                f"{self.limits.max_tokens_per_request}. Split it into several requests."
            )
        wait_s = self.predicted_wait_s()
        too_many = self.queued_tokens + tokens > self.limits.max_queue_tokens
        # An empty queue admits any legal request: otherwise the largest would never be served.
        if self.queued_tokens and (too_many or wait_s > self.limits.max_queue_s):
            raise Overloaded(
                f"The queue holds {self.queued_tokens} tokens, about {wait_s:.1f} s of work. Try again later.",
                retry_after_s=self._retry_after_s(tokens),
            )
        self.queued_rows += rows
        self.queued_tokens += tokens

    def leave(self, rows: int, tokens: int) -> None:
        """Count a request out, answered or not."""
        self.queued_rows -= rows
        self.queued_tokens -= tokens

    def predicted_wait_s(self) -> float:
        """Return how long the queue would take to empty at the measured speed."""
        return self.queued_tokens / self._tokens_per_s

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn the engine's speed from a batch it has run."""
        if seconds > 0:
            self._tokens_per_s += 0.05 * (tokens / seconds - self._tokens_per_s)

    def close(self) -> None:
        """Refuse everything from now on."""
        self._draining = True

    def _retry_after_s(self, tokens: int) -> float:
        """When enough of the queue will have gone; jittered so that refused clients do not return at once."""
        room = min(self.limits.max_queue_tokens, self.limits.max_queue_s * self._tokens_per_s)
        excess = max(0.0, self.queued_tokens + tokens - room)
        return min(MAX_RETRY_AFTER_S, (excess / self._tokens_per_s + 0.05) * random.uniform(1.0, 1.3))
