"""What the console is given: the parts it shows, and the questions it may ask about a visitor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tremplin.registry.store import Registry
from tremplin.serve.services import Services

if TYPE_CHECKING:
    from tremplin.console.desk import RunDesk  # it uses the contexts, which use this module

State = Literal["ready", "starting", "draining"]

DOCS_URL = "https://github.com/tremplin/tremplin/tree/main/docs"


@dataclass(frozen=True)
class LiveVersion:
    """One version that serves now."""

    service: str
    """The name it is served under."""
    ref: str
    """``model@version``."""
    task: str
    forced: bool
    """Served although a bound is broken, because the operator named it."""
    broken_bounds: tuple[str, ...]
    """A sentence for each broken bound; empty unless forced."""
    engine: str
    threads: int


@dataclass(frozen=True)
class ConsoleView:
    """Everything the console needs from the rest of the process."""

    services: Services
    registry: Registry
    live: Callable[[], Sequence[LiveVersion]]
    state: Callable[[], State]
    check_key: Callable[[str], bool]
    """Whether a text is a valid API key."""
    is_operator_key: Callable[[str], bool]
    """Whether it is the key of somebody who operates the server; those may start and stop runs."""
    redeem_ticket: Callable[[str], bool]
    """Whether a one-time ticket was valid; it is not any more afterwards."""
    runs: RunDesk
    """Optimising runs."""
    session_secret: bytes
    """Signs the session cookie; a new one signs everybody out. At least 16 bytes."""
    version: str
    """Of Tremplin itself, for the footer."""
    docs_url: str = DOCS_URL
    is_open: bool = False
    """Whether everybody may enter without a key, as when the server runs without authentication."""
