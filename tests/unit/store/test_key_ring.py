"""API keys: what is stored cannot be used, and no change is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tremplin.errors import RegistryError, UnknownName
from tremplin.store import keys
from tremplin.store.keys import KeyRing


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path)


def test_a_key_is_known_until_it_is_revoked(ring: KeyRing) -> None:
    key, other = ring.create("one"), ring.create("two")
    assert key.startswith("tk_")
    assert len(key) == 46
    found = ring.check(key)
    assert found is not None
    assert (found.id, found.name) == (key[:8], "one")
    gone = ring.revoke(key[:8])
    assert gone.revoked_at is not None
    assert ring.check(key) is None
    assert ring.check(other) is not None
    with pytest.raises(UnknownName, match=other[:8]):
        ring.revoke(key[:8])


@pytest.mark.parametrize("wrong", ["", "tk_", "tk_é", "\ud800", "a" * 100_000])
def test_anything_else_is_not_a_key(ring: KeyRing, wrong: str) -> None:
    key = ring.create("one")
    assert ring.check(wrong) is None
    assert ring.check(key[:-1]) is None
    assert ring.check(key + "a") is None
    assert ring.check(key.swapcase()) is None


def test_what_is_stored_cannot_be_used(ring: KeyRing, tmp_path: Path) -> None:
    key = ring.create("one")
    for path in tmp_path.iterdir():
        assert key[8:].encode() not in path.read_bytes()
        if path.name in ("keys.json", "pepper"):
            assert path.stat().st_mode & 0o777 == 0o600
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keys.json").write_bytes((tmp_path / "keys.json").read_bytes())
    assert KeyRing(elsewhere).check(key) is None, "the digests are of use without the pepper"


def test_another_process_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    server, command = KeyRing(tmp_path), KeyRing(tmp_path)
    assert server.check("tk_unknown") is None
    key = command.create("made elsewhere")
    assert server.check(key) is not None
    command.revoke(key[:8])
    assert server.check(key) is None
    (tmp_path / "keys.json").unlink()
    assert server.check(key) is None


def test_two_changes_in_one_tick_of_the_clock_are_both_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    server, command = KeyRing(tmp_path), KeyRing(tmp_path)
    key = command.create("one")
    tick = (tmp_path / "keys.json").stat()
    assert server.check(key) is not None
    command.revoke(key[:8])
    os.utime(tmp_path / "keys.json", ns=(tick.st_atime_ns, tick.st_mtime_ns))
    assert server.check(key) is None


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    rings = [KeyRing(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: rings[i % 8].create(f"key {i}"), range(48)))
    ring = KeyRing(tmp_path)
    assert len(ring.all()) == 48
    assert all(ring.check(key) is not None for key in made)


def test_first_users_at_the_same_time_agree_on_the_pepper(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from tremplin.store.keys import KeyRing; " \
              "print(KeyRing(Path(sys.argv[1])).create('x'))"  # fmt: skip
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    made = [process.communicate()[0].strip() for process in processes]
    assert all(KeyRing(tmp_path).check(key) is not None for key in made)


@pytest.mark.parametrize("content", ["", "{}", '[{"id": 1}]', "[" * 10])
def test_a_damaged_list_lets_nobody_in_and_says_so(ring: KeyRing, tmp_path: Path, content: str) -> None:
    key = ring.create("one")
    (tmp_path / "keys.json").write_text(content)
    fresh = KeyRing(tmp_path)
    with pytest.raises(RegistryError, match="damaged"):
        fresh.check(key)
    with pytest.raises(RegistryError):
        fresh.create("two")
    assert (tmp_path / "keys.json").read_text() == content


def test_a_crash_while_writing_leaves_the_old_list(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.create("one")
    before = (tmp_path / "keys.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ring.revoke(key[:8])
    assert (tmp_path / "keys.json").read_bytes() == before
    assert json.loads(before)[0]["revoked_at"] is None
    assert not list(tmp_path.glob(".keys.json.*"))
