"""API keys, kept in one file of the data folder.

A key has 256 random bits, so a slow hash would buy nothing: what is stored is HMAC-SHA-256 under a pepper kept
in a file of its own, with the first characters so that people can tell keys apart.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from tremplin.errors import UnknownName
from tremplin.registry.files import write_atomically

PREFIX = "tk_"
SHOWN_CHARACTERS = 8

# How soon a key made or revoked by another process counts. Looking at the file for every request would let go of
# the interpreter each time.
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key."""

    id: str
    """Its first characters, enough to tell it from others and too few to use it."""
    name: str
    digest: str
    created_at: str
    revoked_at: str | None = None


_KEYS = TypeAdapter(list[ApiKey])


class KeyRing:
    """The keys of one data folder. A change made by another process counts within LOOK_EVERY_S."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "keys.json"
        self._pepper = _read_or_make(folder / "pepper")
        self._path = str(self._file)  # a Path costs more to look at than the file
        self._look_again_at = 0.0
        self._read_at = -1
        self._by_digest: dict[str, ApiKey] = {}

    def create(self, name: str) -> str:
        """Make a key, store its digest and return the key itself, which is never shown again."""
        key = PREFIX + secrets.token_urlsafe(32)
        made = ApiKey(
            id=key[:SHOWN_CHARACTERS],
            name=name,
            digest=self._digest(key),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._write([*self.all(), made])
        return key

    def revoke(self, key_id: str) -> ApiKey:
        """Refuse a key from now on; raises UnknownName when no live key has this id."""
        keys = self.all()
        for position, key in enumerate(keys):
            if key.id == key_id and key.revoked_at is None:
                gone = replace(key, revoked_at=datetime.now(UTC).isoformat(timespec="seconds"))
                self._write([*keys[:position], gone, *keys[position + 1 :]])
                return gone
        known = ", ".join(key.id for key in keys if key.revoked_at is None) or "none"
        raise UnknownName(f"There is no live key {key_id!r}; live keys: {known}.")

    def all(self) -> list[ApiKey]:
        """Return every key ever made, oldest first."""
        try:
            return _KEYS.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return []

    def check(self, key: str) -> ApiKey | None:
        """Return the live key this secret belongs to, or None. Takes about 10 us."""
        self._refresh()
        found = self._by_digest.get(self._digest(key))
        return found if found is not None and found.revoked_at is None else None

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_EVERY_S
        try:
            changed_at = os.stat(self._path).st_mtime_ns
        except FileNotFoundError:
            changed_at = 0
        if changed_at != self._read_at:
            self._by_digest = {key.digest: key for key in self.all()}
            self._read_at = changed_at

    def _write(self, keys: list[ApiKey]) -> None:
        write_atomically(self._file, _KEYS.dump_json(keys, indent=1), mode=0o600)
        self._look_again_at = 0.0

    def _digest(self, key: str) -> str:
        return hmac.digest(self._pepper, key.encode("utf-8", "surrogatepass"), "sha256").hex()


def _read_or_make(path: Path) -> bytes:
    if not path.exists():
        write_atomically(path, secrets.token_bytes(32), mode=0o600)
    return path.read_bytes()
