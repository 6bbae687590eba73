"""Answers that were computed before: what is kept, under which name, and what an adapter must do.

A row's answer depends on the version, on how the version was asked, and on the exact text; it is kept under a
digest of all of them and of the tenant, so that nobody can learn from the time of an answer what others asked.
A published version is another digest: what older ones answered is never found again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.serve.work import Answer

VERSION_BYTES = 8
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class CachedRow:
    """What one row was answered."""

    answer: Answer
    """Arrays that own their memory: a view would keep the whole batch alive."""
    tokens: int
    is_truncated: bool

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays and of what holds them, about."""
        return 400 + sum(array.nbytes for array in self.answer)


class ResultCache(Protocol):
    """Keeps answers; may lose any of them at any time, and never fails a request. Called from the event loop."""

    async def get(self, keys: Sequence[bytes]) -> list[CachedRow | None]:
        """Return what is kept under each key."""
        ...

    async def put(self, rows: Sequence[tuple[bytes, CachedRow]]) -> None:
        """Keep answers, and let others go when there is no room."""
        ...

    async def drop(self, version: bytes) -> None:
        """Forget every answer of a version, named by the first VERSION_BYTES of its keys."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class CacheKeys:
    """The keys of one version's rows."""

    def __init__(self, manifest: Manifest) -> None:
        names = (manifest.artefact(name).sha256 for name in (MODEL_FILE, TOKENIZER_FILE))
        identity = "|".join((*names, manifest.interface.task, str(manifest.interface.max_tokens)))
        self.version = hashlib.sha256(identity.encode()).digest()[:VERSION_BYTES]

    def of_texts(self, tenant: str, texts: Sequence[str]) -> list[bytes]:
        """Return a key for each text."""
        return self._keys(tenant, b"text", [_bytes(text) for text in texts])

    def of_pairs(self, tenant: str, pairs: Sequence[tuple[str, str]]) -> list[bytes]:
        """Return a key for each pair of texts."""
        # The length of the first text keeps ("ab", "c") and ("a", "bc") apart.
        contents = [b"%d:%b%b" % (len(first), _bytes(first), _bytes(second)) for first, second in pairs]
        return self._keys(tenant, b"pair", contents)

    def of_ids(self, tenant: str, rows: Sequence[Sequence[int]]) -> list[bytes]:
        """Return a key for each row of token ids."""
        return self._keys(tenant, b"ids", [b",".join(b"%d" % token for token in ids) for ids in rows])

    def _keys(self, tenant: str, kind: bytes, contents: list[bytes]) -> list[bytes]:
        start = hashlib.blake2b(b"%b\0%b\0" % (tenant.encode(), kind), digest_size=DIGEST_BYTES, key=self.version)
        keys = []
        for content in contents:
            digest = start.copy()
            digest.update(content)
            keys.append(self.version + digest.digest())
        return keys


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class NoCache:
    """Keeps nothing."""

    async def get(self, keys: Sequence[bytes]) -> list[CachedRow | None]:
        """Return nothing for each key."""
        return [None] * len(keys)

    async def put(self, rows: Sequence[tuple[bytes, CachedRow]]) -> None:
        """Keep nothing."""

    async def drop(self, version: bytes) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Nothing is open."""
