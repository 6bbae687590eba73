"""A real server in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.serving.load import Run, Target, closed_loop, run_load

# The texts repeat: with a cache, a comparison would measure the cache.
NO_CACHE = {"TREMPLIN_CACHE_BYTES": "0"}


@dataclass(frozen=True)
class RunningServer:
    """A server that answers."""

    target: Target
    key: str
    version: str
    """The encoder it serves, such as ``minilm@2-int8``; the passport decides, on this machine."""
    process: subprocess.Popen[str]
    started_s: float
    """From the start of the process to its own "Ready" line."""
    first_answer_s: float
    """From the start of the process to the first answer."""

    def request(self, texts: str | Sequence[str], *, encoding: str = "base64", **headers: str) -> bytes:
        """Return one embedding request as it goes over the wire; base64 is what the OpenAI client asks for."""
        return _request(self.target, self.key, texts, encoding=encoding, **headers)

    def closed_loop(self, requests: Sequence[bytes], connections: int, **options: float) -> Run:
        """Run a closed loop in which every request must be answered."""
        return run_load(closed_loop(self.target, requests, connections, **options)).checked()  # type: ignore[arg-type]

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """Return the resident memory now, or its peak (``VmHWM``), of the first process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024  # type: ignore[union-attr]

    def paused(self) -> AbstractContextManager[None]:
        """Stop the server for a while, so that it takes nothing from what runs on its core."""
        return processes.paused(self.process.pid)

    def pause(self) -> None:
        """Stop the server until it is resumed."""
        processes.pause(self.process.pid)

    def resume(self) -> None:
        """Let a stopped server go on."""
        processes.resume(self.process.pid)

    def metrics(self) -> dict[str, float]:
        """Return what ``/metrics`` counts, summed over the labels."""
        found: dict[str, float] = {}
        for line in self.metrics_text().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name.partition("{")[0]] = found.get(name.partition("{")[0], 0.0) + float(value)
        return found

    def metrics_text(self) -> str:
        """Return ``/metrics`` as it is."""
        return self._read("/metrics")

    def get(self, path: str) -> Any:
        """Return what a route answers, read as JSON."""
        return json.loads(self._read(path))

    def _read(self, path: str) -> str:
        asked = urllib.request.Request(
            f"http://{self.target.host}:{self.target.port}{path}", headers={"authorization": f"Bearer {self.key}"}
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return str(answer.read().decode())


@contextmanager
def running_server(
    data: Path,
    *options: str,
    cores: Sequence[int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
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
        preexec_fn=processes.pinned(cores),  # noqa: PLW1509 (no thread)
        env=os.environ
        | {"PYTHONUNBUFFERED": "1", "TREMPLIN_DRAIN_DELAY_S": "0", "NO_COLOR": "1"}
        | dict(environment or {}),
    )
    key_file = data / "benchmark-key"
    port, version = 0, ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"tk_[A-Za-z0-9_-]{30,}", line):
                key_file.write_text(found.group())
            if found := re.match(r"Serving\s+(\S+@\S+) \(embedding", line):
                version = found.group(1)
            if line.startswith("Ready"):
                port = int(line.rsplit(":", 1)[1])
                break
        if not port:
            raise RuntimeError(f"the server ended with status {process.wait()}")
        ready = time.perf_counter() - started
        target, key = Target("127.0.0.1", port), key_file.read_text()
        run_load(closed_loop(target, [_request(target, key, "hello")], 1, count=1)).checked()
        yield RunningServer(target, key, version, process, ready, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        if status != 0:
            print(f"the server ended with status {status}", file=sys.stderr)


def _request(
    target: Target, key: str, texts: str | Sequence[str], *, encoding: str = "base64", **headers: str
) -> bytes:
    body = json.dumps({"model": "default", "input": texts, "encoding_format": encoding}).encode()
    return target.request("/v1/embeddings", body, authorization=f"Bearer {key}", **headers)
