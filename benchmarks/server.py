"""A real server in a process of its own, and a client that costs little enough to measure it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunningServer:
    """A server that answers."""

    host: str
    port: int
    key: str
    process: subprocess.Popen[str]
    started_s: float
    """From the start of the process to its own "Ready" line."""
    first_answer_s: float
    """From the start of the process to the first answer."""

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """Return the resident memory now, or its peak (``VmHWM``)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024  # type: ignore[union-attr]


@contextmanager
def running_server(data: Path, *options: str, cores: Sequence[int] | None = None) -> Iterator[RunningServer]:
    """Run ``tremplin up`` on a data folder until the block ends; SIGTERM must end it with status 0."""
    command = [
        sys.executable,
        "-m",
        "tremplin",
        "up",
        "--data",
        str(data),
        "--port",
        "0",
        "--no-browser",
        *options,
    ]
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,  # noqa: PLW1509 (no thread)
        env=os.environ | {"PYTHONUNBUFFERED": "1", "TREMPLIN_DRAIN_DELAY_S": "0", "NO_COLOR": "1"},
    )
    key_file = data / "benchmark-key"
    port = 0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"tk_[A-Za-z0-9_-]{30,}", line):
                key_file.write_text(found.group())
            if line.startswith("Ready"):
                port = int(line.rsplit(":", 1)[1])
                break
        if not port:
            raise RuntimeError(f"the server ended with status {process.wait()}")
        ready = time.perf_counter() - started
        key = key_file.read_text()
        asyncio.run(closed_loop("127.0.0.1", port, [request_bytes("127.0.0.1", key, "hello")], 1, count=1))
        yield RunningServer("127.0.0.1", port, key, process, ready, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        if status != 0:
            print(f"the server ended with status {status}", file=sys.stderr)


def request_bytes(host: str, key: str, text: str) -> bytes:
    """Return one embedding request as it goes over the wire."""
    body = json.dumps({"model": "default", "input": text, "encoding_format": "base64"}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One keep-alive connection of a closed loop: the next request leaves when the answer is whole."""

    def __init__(
        self, requests: Iterator[bytes], latencies: list[float], until: float, done: asyncio.Future[None]
    ):
        self._requests = requests
        self._latencies = latencies
        self._until = until
        self._done = done
        self._buffer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(re.search(rb"content-length: (\d+)", head).group(1))  # type: ignore[union-attr]
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(self._buffer[:400].decode()))
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or RuntimeError("the server closed the connection"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None or time.perf_counter() >= self._until:
            self._done.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)  # type: ignore[attr-defined]


async def closed_loop(
    host: str,
    port: int,
    requests: Sequence[bytes],
    connections: int,
    *,
    seconds: float = 3600,
    count: int | None = None,
) -> tuple[float, list[float]]:
    """Return requests per second and each latency in seconds; every connection has one request under way."""

    def endless() -> Iterator[bytes]:
        number = 0
        while count is None or number < count:
            yield requests[number % len(requests)]
            number += 1

    source, latencies = endless(), list[float]()
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    done = [loop.create_future() for _ in range(connections)]
    for future in done:
        await loop.create_connection(
            lambda future=future: _Connection(source, latencies, started + seconds, future), host, port
        )
    await asyncio.gather(*done)
    return len(latencies) / (time.perf_counter() - started), latencies
