"""What a request says of itself beside its texts: who asks, how urgent it is, until when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Priority(StrEnum):
    """The class of a request; each has a queue of its own in front of the engine."""

    INTERACTIVE = "interactive"
    """Someone waits for the answer."""
    BULK = "bulk"
    """Whatever is left over, and a guaranteed share of it (``lanes.BULK_SHARE``)."""


@dataclass(frozen=True, slots=True)
class Call:
    """The circumstances of one request."""

    tenant: str = ""
    """Whose request it is: results are shared within a tenant, never between two. Empty for the server itself."""
    priority: Priority | None = None
    """What the caller asked for; None lets the size of the request decide."""
    deadline: float | None = None
    """When the caller stops waiting, on ``time.perf_counter``'s clock; None when he did not say."""
    use_cache: bool = True
    """Whether an answer computed before may be given again."""


# The server's own requests: indexing, warm-up.
OWN = Call(priority=Priority.BULK)
ANYONE = Call()
