"""Tickets that open the console once, whichever process of a server is asked.

A ticket is a file named by its digest; who removes the file has redeemed it, and only one can.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path

LIFETIME_S = 24 * 3600


class Tickets:
    """One-time tickets in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder

    def issue(self) -> str:
        """Return a new ticket; those that have expired are forgotten."""
        for file in self._folder.iterdir():
            if not self._is_live(file):
                file.unlink(missing_ok=True)
        ticket = secrets.token_urlsafe(24)
        self._file(ticket).touch(0o600)
        return ticket

    def redeem(self, ticket: str) -> bool:
        """Return whether a ticket was valid; it is not any more afterwards."""
        file = self._file(ticket)
        is_live = self._is_live(file)
        try:
            file.unlink()
        except FileNotFoundError:
            return False
        return is_live

    def _file(self, ticket: str) -> Path:
        return self._folder / hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()

    @staticmethod
    def _is_live(file: Path) -> bool:
        try:
            return time.time() - file.stat().st_mtime < LIFETIME_S
        except FileNotFoundError:
            return False
