"""Settings: read once, refused with the name of the setting and where it is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tremplin.config import Settings, default_data_folder, read_settings
from tremplin.errors import InvalidSettings


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TREMPLIN_"):
            monkeypatch.delenv(name)


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREMPLIN_PORT", "9001")
    monkeypatch.setenv("TREMPLIN_HOST", "::1")
    settings = read_settings(port=9002, host=None)
    assert (settings.port, settings.host) == (9002, "::1")


def test_nothing_changes_after_it_was_read() -> None:
    settings = read_settings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": -1}, "greater than or equal to 0"),
        ({"port": 65536}, "less than or equal to 65535"),
        ({"port": "eighty"}, "valid integer"),
        ({"threads": 257}, "256"),
        ({"max_body_bytes": 12}, "1024"),
        ({"max_rows_per_request": 0}, "1"),
        ({"max_queue_s": 0}, "greater than 0"),
        ({"max_queue_s": "nan"}, "greater than 0"),
        ({"max_batch_rows": 0}, "1"),
        ({"drain_delay_s": -1}, "0"),
        ({"log_level": "loud"}, "debug|info|warning|error"),
        ({"auth": "perhaps"}, "boolean"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(given: dict[str, Any], said: str) -> None:
    (name,) = given
    with pytest.raises(InvalidSettings) as raised:
        read_settings(**given)
    message = str(raised.value)
    assert repr(name) in message
    assert f"--{name.replace('_', '-')}" in message
    assert f"TREMPLIN_{name.upper()}" in message
    assert said in message
    assert str(given[name]) not in message.replace(said, ""), "the value itself may be a secret"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
    ],
)
def test_only_a_loopback_address_may_go_without_keys(host: str, is_loopback: bool) -> None:
    assert Settings(host=host).is_loopback is is_loopback
    if is_loopback:
        assert read_settings(host=host, auth=False).auth is False
    else:
        with pytest.raises(InvalidSettings, match="loopback only"):
            read_settings(host=host, auth=False)
    assert read_settings(host=host).auth is True


def test_data_lies_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_folder() == tmp_path / "tremplin" == read_settings().data
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_data_folder() == tmp_path / "home/.local/share/tremplin"
