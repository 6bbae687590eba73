"""Where the server is in its life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class ServerState:
    """Starting, ready, draining. Owned by the event loop."""

    is_started: bool = False
    is_draining: bool = False
    in_flight: int = 0

    @property
    def name(self) -> Literal["starting", "ready", "draining"]:
        """``starting``, ``ready`` or ``draining``."""
        if self.is_draining:
            return "draining"
        return "ready" if self.is_started else "starting"
