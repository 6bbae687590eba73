"""Where the time of a request went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds per phase, of one request."""

    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    """From the request's arrival in the queue until the engine took its first row."""
    compute_ms: float = 0.0
    """From then until its last row was computed; other requests' rows may share the batches."""
    tokens: int = 0
    """Tokens of the request, special tokens included."""
    truncated: int = 0
    """Texts that were cut to what the model reads."""
    cached: int = 0
    """Texts whose answer had been computed before."""
