"""The tests' own guard: a call to anything but this machine fails the test."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_a_connection_elsewhere_fails(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as outside, pytest.raises(pytest.fail.Exception, match="unexpected network call"):
        outside.connect((address, 80))


def test_a_look_up_of_a_name_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"huggingface\.co"):
        socket.getaddrinfo("huggingface.co", 443)


def test_this_machine_can_be_called() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()):
            pass
        assert socket.getaddrinfo("localhost", server.getsockname()[1])
