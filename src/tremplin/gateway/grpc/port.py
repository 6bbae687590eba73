"""The port for gRPC: taken when the command starts, so that it is known and nobody else's; shared by the workers.

gRPC listens by itself and cannot be given a socket. What is taken here is bound and does not listen: it keeps the
port, and whoever listens on it with SO_REUSEPORT, each worker one, gets the connections.
"""

from __future__ import annotations

import errno
import socket
from importlib.util import find_spec

from tremplin.errors import MissingExtra, StartFailed


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for gRPC until it is closed; 0 takes a free one.

    Raises MissingExtra when gRPC is not installed, StartFailed when the port is taken.
    """
    if find_spec("grpc") is None or find_spec("grpc_tools") is None:
        raise MissingExtra("Serving over gRPC needs packages: pip install 'tremplin[grpc]'")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without SO_REUSEPORT, so that another server's port is not shared by mistake.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        reservation = socket.socket(family, socket.SOCK_STREAM)
        try:
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reservation.bind((host, port))
        except OSError:
            reservation.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailed(
                f"Port {port} on {host} is in use. Stop the program that holds it, or choose another: "
                f"--grpc-port {port + 1 if port < 65535 else 8001}, or --grpc-port 0 for any free one."
            ) from None
        raise StartFailed(
            f"Cannot listen on {host}:{port}: {error.strerror}. Check --host and --grpc-port."
        ) from None
    return reservation
