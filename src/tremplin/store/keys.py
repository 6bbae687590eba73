"""API keys, kept in one file of the data folder.

A key has 256 random bits, so a slow hash would buy nothing: what is stored is HMAC-SHA-256 under a pepper kept
in a file of its own, with the first characters so that people can tell keys apart.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tremplin.errors import RegistryError, UnknownName
from tremplin.registry.files import locked, secret_in, write_atomically

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
    is_operator: bool = False
    """Whether it may operate the server beside calling it: load versions, look at batches."""


_KEYS = TypeAdapter(list[ApiKey])


class KeyRing:
    """The keys of one data folder. A change made by another process counts within LOOK_EVERY_S."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "keys.json"
        self._pepper = secret_in(folder / "pepper")
        self._path = str(self._file)  # a Path costs more to look at than the file
        self._look_again_at = 0.0
        self._read: tuple[int, int] | None = None
        """When the file that was read was written, and its inode: two writes can fall in one tick of the clock."""
        self._by_digest: dict[str, ApiKey] = {}
        self._checked: dict[str, ApiKey] = {}
        """Live keys by the secret itself, as many as there are: a digest is 8 us, a tenth of what HTTP costs."""

    def create(self, name: str, *, is_operator: bool = False) -> str:
        """Make a key, store its digest and return the key itself, which is never shown again."""
        key = PREFIX + secrets.token_urlsafe(32)
        made = ApiKey(
            id=key[:SHOWN_CHARACTERS],
            name=name,
            digest=self._digest(key),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            is_operator=is_operator,
        )
        with self._changing() as keys:
            keys.append(made)
        return key

    def revoke(self, key_id: str) -> ApiKey:
        """Refuse a key from now on; raises UnknownName when no live key has this id."""
        with self._changing() as keys:
            for position, key in enumerate(keys):
                if key.id == key_id and key.revoked_at is None:
                    gone = replace(key, revoked_at=datetime.now(UTC).isoformat(timespec="seconds"))
                    keys[position] = gone
                    return gone
        known = ", ".join(key.id for key in keys if key.revoked_at is None) or "none"
        raise UnknownName(f"There is no live key {key_id!r}; live keys: {known}.")

    def all(self) -> list[ApiKey]:
        """Return every key ever made, oldest first; raises RegistryError when the file is damaged."""
        try:
            return _KEYS.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return []
        except ValidationError:
            raise RegistryError(
                f"The list of API keys ({self._file.name} in the data folder) is damaged. "
                "Restore it from a backup, or delete it and make new keys with `tremplin keys create`."
            ) from None

    def check(self, key: str) -> ApiKey | None:
        """Return the live key this secret belongs to, or None. Takes about 10 us the first time, then 1."""
        self._refresh()
        known = self._checked.get(key)
        if known is not None:
            return known
        found = self._by_digest.get(self._digest(key))
        if found is None or found.revoked_at is not None:
            return None
        self._checked[key] = found
        return found

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_EVERY_S
        try:
            status = os.stat(self._path)
            written = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            written = (0, 0)
        if written != self._read:
            self._by_digest = {key.digest: key for key in self.all()}
            self._checked = {}
            self._read = written

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """Lend the keys to be changed and write them back, one process at a time: no change is lost."""
        with locked(self._file.with_name("lock")):
            keys = self.all()
            yield keys
            write_atomically(self._file, _KEYS.dump_json(keys, indent=1), mode=0o600)
        self._look_again_at = 0.0

    def _digest(self, key: str) -> str:
        return hmac.digest(self._pepper, key.encode("utf-8", "surrogatepass"), "sha256").hex()
