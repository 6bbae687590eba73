"""How long-running work tells whoever watches where it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with the name of a step and the share of the whole that is done, from 0 to 1."""


def silent(step: str, share: float) -> None:
    """Watch nothing."""
