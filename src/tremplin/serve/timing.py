"""Where the time of a request went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds per phase, of one request."""

    tokenize_ms: float
    queue_ms: float
    """From the request's arrival in the queue until the engine took its first row."""
    compute_ms: float
    """From then until its last row was computed; other requests' rows may share the batches."""
    tokens: int
    """Tokens of the request, special tokens included."""

    def plus(self, other: Timings) -> Timings:
        """Return the time of two steps of one request, done one after the other."""
        return Timings(
            self.tokenize_ms + other.tokenize_ms,
            self.queue_ms + other.queue_ms,
            self.compute_ms + other.compute_ms,
            self.tokens + other.tokens,
        )
