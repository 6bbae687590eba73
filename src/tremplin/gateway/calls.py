"""What a request's headers say of it: how urgent it is, until when, whether a cached answer will do."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tremplin.errors import BadInput
from tremplin.serve.call import Call, Priority

PRIORITY = b"x-tremplin-priority"
DEADLINE_MS = b"x-tremplin-deadline-ms"

# How long callers we do not know wait: Envoy tells its upstreams in milliseconds, OpenAI's clients (Python,
# TypeScript) tell their own time-out in seconds. After it nobody reads the answer.
FOREIGN_DEADLINES = ((b"x-envoy-expected-rq-timeout-ms", 1e-3), (b"x-stainless-read-timeout", 1.0))

# A time-out as long as this is none.
LONGEST_S = 3600.0


def call_of(headers: Mapping[bytes, bytes], tenant: str) -> Call:
    """Return the circumstances of a request; raises BadInput for one of our own headers that cannot be read."""
    asked = headers.get(PRIORITY)
    try:
        priority = None if asked is None else Priority(asked.decode("latin-1").lower())
    except ValueError:
        raise BadInput(
            f"X-Tremplin-Priority is {asked!r:.40}; expected {' or '.join(Priority)}.",
        ) from None
    return Call(tenant, priority, _deadline(headers), b"no-" not in headers.get(b"cache-control", b""))


def _deadline(headers: Mapping[bytes, bytes]) -> float | None:
    given = headers.get(DEADLINE_MS)
    if given is not None:
        try:
            wait_s = float(given) / 1e3
        except ValueError:
            wait_s = -1.0
        if not 0 < wait_s < float("inf"):
            raise BadInput(f"X-Tremplin-Deadline-Ms is {given!r:.40}; expected milliseconds above 0, such as 250.")
        return time.perf_counter() + wait_s if wait_s < LONGEST_S else None
    for name, unit_s in FOREIGN_DEADLINES:
        value = headers.get(name)
        if value is not None:
            try:
                wait_s = float(value) * unit_s
            except ValueError:
                continue
            return time.perf_counter() + wait_s if 0 < wait_s < LONGEST_S else None
    return None
