"""What is known of a peer, and how one is run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import processes
from benchmarks.serving.load import Target
from benchmarks.serving.peers.model import MODEL, bundled_folder, reference

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("BENCH_ENVS") or Path(__file__).resolve().parents[3] / ".bench-envs")
STARTS_WITHIN_S = 180.0
# int8 of the plain kind keeps the worst of these texts above .97; a wrong pooling or a cut text does not.
LEAST_COSINE = 0.97

Json = Any


@dataclass(frozen=True)
class Peer:
    """One server: how it is started, which URL it answers, how a request and an answer look."""

    folder: str
    """Its folder here, and its environment's name."""
    name: str
    precision: str
    """``int8`` or ``fp32``."""
    command: Callable[[Path, int], list[str]]
    """From the environment's ``bin`` and a port to the command that serves."""
    path: str
    body: Callable[[Sequence[str]], Json]
    """The request for some texts."""
    vectors: Callable[[Json], Sequence[Sequence[float]]]
    """The vectors in an answer."""
    packages: tuple[str, ...]
    """Whose versions a result names."""
    setup: str
    """What was chosen, in words."""
    environment: Callable[[int], Mapping[str, str]] = lambda port: {}
    """What it reads from the environment beside what all get, from its port."""

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.folder / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        return (ENVIRONMENTS / self.folder / "installed").is_file()

    def install(self) -> None:
        """Make the peer's environment; torch first, by its exact version, so that no other build is drawn in."""
        folder, sources = ENVIRONMENTS / self.folder, HERE / self.folder
        ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
        (ENVIRONMENTS / ".gitignore").write_text("*\n", "utf-8")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "-c", str(sources / "constraints.txt")]
        for line in (sources / "requirements.txt").read_text("utf-8").splitlines():
            if line.startswith("torch=="):
                subprocess.run([*pip, line], check=True)
        subprocess.run([*pip, "-r", str(sources / "requirements.txt")], check=True)
        (folder / "installed").touch()

    def versions(self) -> str:
        """Return the versions installed, as a result names them."""
        script = (
            "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
        )
        done = subprocess.run(
            [str(self.python), "-c", script, *self.packages], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


@dataclass(frozen=True)
class RunningPeer:
    """A peer that answers."""

    peer: Peer
    target: Target
    process: subprocess.Popen[str]
    started_s: float
    """From the start of the process to the first answer."""

    def request(self, texts: Sequence[str]) -> bytes:
        """Return one request as it goes over the wire."""
        return self.target.request(self.peer.path, json.dumps(self.peer.body(texts)).encode())

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of some texts, asked for in one request."""
        answer = _ask(self.target, self.peer, texts)
        return np.asarray(self.peer.vectors(answer), np.float32)

    def verify(self) -> float:
        """Return the least cosine to the fp32 vectors, text by text; raises RuntimeError when it is too small."""
        texts, expected = reference()
        found = np.concatenate([self.embed([text]) for text in texts])
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        least = float((found * expected).sum(axis=1).min())
        if least < LEAST_COSINE:
            raise RuntimeError(
                f"{self.peer.name} answers with a cosine of {least:.4f} to fp32, below {LEAST_COSINE}"
            )
        return least

    def memory_bytes(self) -> int:
        """Return the memory of all its processes."""
        return processes.memory_bytes(self.process.pid)

    def paused(self) -> AbstractContextManager[None]:
        """Stop the peer for a while, so that it takes nothing from what runs on its core."""
        return processes.paused(self.process.pid)


@contextmanager
def running_peer(peer: Peer, cores: Sequence[int], log: Path | None = None) -> Iterator[RunningPeer]:
    """Run a peer with one engine thread on some cores until the block ends."""
    if not peer.is_installed:
        raise RuntimeError(
            f"{peer.name} is not installed: python -m benchmarks.serving.peers install {peer.folder}"
        )
    port = _free_port()
    environment = {
        "PYTHONPATH": str(HERE / "common"),
        "PEER_MODEL": str(MODEL),
        "PEER_SOURCE": str(bundled_folder()),
        "PEER_PORT": str(port),
        "PEER_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    output = (log or ENVIRONMENTS / f"{peer.folder}.log").open("w")
    started = time.perf_counter()
    process = subprocess.Popen(
        peer.command(peer.python.parent, port),
        cwd=HERE / peer.folder,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=processes.pinned(cores),  # noqa: PLW1509 (no thread)
        env=inherited | environment | dict(peer.environment(port)),
    )
    try:
        target = Target("127.0.0.1", port)
        _wait_until_it_answers(peer, target, process, Path(output.name))
        yield RunningPeer(peer, target, process, time.perf_counter() - started)
    finally:
        processes.stop(process)
        output.close()


def _wait_until_it_answers(peer: Peer, target: Target, process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            _ask(target, peer, ["hello"])
        except (OSError, ValueError, KeyError) as error:
            ended = process.poll()
            if ended is not None or time.monotonic() > deadline:
                tail = log.read_text("utf-8", "replace")[-3000:]
                raise RuntimeError(f"{peer.name} does not answer ({error}; status {ended}):\n{tail}") from error
            time.sleep(0.1)
        else:
            return


def _ask(target: Target, peer: Peer, texts: Sequence[str]) -> Json:
    asked = urllib.request.Request(
        f"http://{target.host}:{target.port}{peer.path}",
        data=json.dumps(peer.body(texts)).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
