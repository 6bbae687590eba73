"""Callers who were told when to come back, and the places kept for them.

Telling everyone who is refused to come back when the queue has emptied sends them all at once, to be refused
again. Here each refused request gets a time of its own, as far apart as its work takes, and is recognised when
it returns by what it asks: an unmodified client that obeys ``Retry-After`` needs to do nothing. While places are
promised, newcomers may fill the queue only up to NEWCOMERS of its bound; the rest is for those who return.

A place is not paid for: who does not return loses it, and newcomers take what is left over, so the engine never
waits for anyone.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import NamedTuple

# The share of the queue that newcomers may fill while others are expected back.
NEWCOMERS = 0.8
# Places are promised a little slower than the engine works: a queue that is fed exactly as fast as it empties
# fills up by chance. What is left of the engine's time goes to newcomers.
PACE = 0.9

# openai-python stops retrying by itself above two minutes.
MAX_RETRY_AFTER_S = 120.0
# Who comes late by more than this, or by this share of the time he was told, has lost the place.
GRACE_S = 2.0
GRACE_SHARE = 0.25
# Clients that come back together would be served one after the other anyway; a little spread costs nothing.
JITTER_S = 0.05

MAX_PROMISES = 20_000


class Promise(NamedTuple):
    """A place kept for one refused request."""

    returns_at: float
    expires_at: float


class Promises:
    """Places in one lane's queue. Times are seconds on a monotonic clock; owned by the event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Promise] = OrderedDict()
        self._next_free = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    def are_open(self, now: float) -> bool:
        """Return whether anyone is expected back."""
        while self._kept:
            key, promise = next(iter(self._kept.items()))
            if promise.expires_at > now:
                return True
            del self._kept[key]
        return False

    def promise(self, request: int, work_s: float, room_in_s: float, now: float) -> float:
        """Return in how many seconds a refused request should come back.

        ``room_in_s`` is when the queue, as it is, will have room for it. A request that has a promise already
        keeps it.
        """
        held = self._kept.get(request)
        if held is not None and held.returns_at > now:
            return held.returns_at - now
        returns_at = max(self._next_free, now + room_in_s)
        wait_s = returns_at - now + random.uniform(0, JITTER_S)
        if wait_s >= MAX_RETRY_AFTER_S:
            # Further than a client waits: he is told the longest, spread out, and nothing is kept for him.
            return MAX_RETRY_AFTER_S * random.uniform(0.8, 1.0)
        self._next_free = returns_at + work_s / PACE
        if len(self._kept) < MAX_PROMISES:
            grace_s = max(GRACE_S, GRACE_SHARE * wait_s)
            self._kept[request] = Promise(now + wait_s, now + wait_s + grace_s)
        return wait_s

    def is_due(self, request: int, now: float) -> bool:
        """Return whether a request has come back when it was told to."""
        held = self._kept.get(request)
        # A client's clock and timer may be a little early.
        return held is not None and held.returns_at - JITTER_S <= now <= held.expires_at

    def redeem(self, request: int, now: float) -> bool:
        """Return whether a request has come back when it was told to; its place is then used up."""
        if not self.is_due(request, now):
            return False
        del self._kept[request]
        return True
