"""Who runs where: the server and the raw engine on one core, the client on another."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import running_server

WARM_S = 0.5


@dataclass(frozen=True)
class Stage:
    """A data folder with a published model, and the cores."""

    data: Path
    version: str
    """The encoder that the server serves here; the raw engine runs the same."""
    server_cores: list[int]
    client_core: int


@contextmanager
def staged(*, all_cores: bool = False) -> Iterator[Stage]:
    """Pin the client and publish the bundled model; ``all_cores`` are the server's, or one."""
    usable = sorted(os.sched_getaffinity(0))
    client = usable[-1]
    # With a single core everything shares it: the figures then say little, but the scenario still runs.
    server_cores = usable if all_cores else usable[:1]
    if not all_cores:
        os.sched_setaffinity(0, {client})
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            with running_server(data, cores=server_cores) as server:
                version = server.version
            yield Stage(data, version, server_cores, client)
    finally:
        os.sched_setaffinity(0, usable)


@dataclass
class Rounds:
    """Figures by name, one value a round."""

    values: dict[str, list[float]]

    def __init__(self) -> None:
        self.values = {}

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> list[float]:
        return self.values[name]

    def ratio(self, name: str, other: str) -> list[float]:
        """Return name / other of each round."""
        return [a / b for a, b in zip(self[name], self[other], strict=True)]
