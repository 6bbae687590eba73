"""The real server and the real commands, in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

# Generous: the machine may be busy. A test that needs it all has failed.
PATIENCE_S = 120


@dataclass
class LiveServer:
    """The real server, in a process of its own."""

    process: subprocess.Popen[str]
    data: Path
    stderr: Path
    output: list[str] = field(default_factory=list)
    """Lines of standard output so far."""
    base_url: str = ""
    api_key: str = ""
    console_ticket: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What a caller with the key sends."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def client(self, **options: Any) -> httpx.Client:
        """Return a client that sends the key, and ``options["headers"]`` with it."""
        headers = self.headers | options.pop("headers", {})
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=PATIENCE_S, **options)

    def logs(self) -> str:
        """Return standard error so far."""
        return self.stderr.read_text()

    def wait_for_log(self, text: str) -> str:
        """Return the logs once they hold ``text``; they are written a few times a second."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.logs():
            assert time.monotonic() < deadline, f"{text!r} was not logged:\n{self.logs()[-2000:]}"
            time.sleep(0.02)
        return self.logs()

    def stop(self) -> int:
        """Ask the server to stop and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def start_server(data: Path, *arguments: str, command: str = "up", **environment: str) -> LiveServer:
    """Start the real server over a data folder and return it once it says it is ready."""
    stderr = data.parent / f"{data.name}.stderr"
    with stderr.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tremplin", command, *arguments, "--data", str(data), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=clean_environment() | environment,
        )
    server = LiveServer(process, data, stderr)
    is_ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                server.output.append(line)
                if line.startswith("Ready"):
                    is_ready.set()
        is_ready.set()

    threading.Thread(target=read, daemon=True).start()
    assert is_ready.wait(PATIENCE_S), "the server was not ready in time"
    text = "".join(server.output)
    ready = re.search(r"^Ready +(\S+)", text, re.MULTILINE)
    assert ready, f"the server ended with {process.wait(PATIENCE_S)}:\n{text}\n{server.logs()}"
    server.base_url = ready[1]
    server.api_key = key[1] if (key := re.search(r"^API key +(tk_\S+)", text, re.MULTILINE)) else ""
    server.console_ticket = ticket[1] if (ticket := re.search(r"ticket=(\S+)", text)) else ""
    return server


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a ``tremplin`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tremplin", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=clean_environment() | environment,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Return this environment without our settings, the coverage of columns fixed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TREMPLIN_")}
    # Measuring and judging every engine that is installed for tests takes a minute a version.
    kept["TREMPLIN_ENGINE"] = "onnxruntime"
    return kept | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONWARNINGS": "error"}
