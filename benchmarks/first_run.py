"""From nothing to a first answer, from a published version to ready, and what it weighs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import Result, figure
from benchmarks.server import running_server
from benchmarks.texts import distinct_short_texts, long_texts

ROOT = Path(__file__).resolve().parents[1]


def run(rounds: int) -> Result:
    """Measure the first run, the restart, memory and the size of the serving install."""
    first, restart, idle, worst = [], [], [], []
    rounds = min(rounds, 3)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        for _ in range(rounds):
            shutil.rmtree(data, ignore_errors=True)
            with running_server(data) as server:
                first.append(server.first_answer_s)
            for _ in range(3):
                with running_server(data) as server:
                    restart.append(server.started_s)
                    idle.append(server.memory_bytes() / 1e6)
        with running_server(data) as server:
            for texts in (distinct_short_texts()[1], long_texts(2048)[1]):
                server.closed_loop([server.request(text) for text in texts], 128, seconds=10)
            worst.append(server.memory_bytes("VmHWM") / 1e6)
    size = _install_megabytes()
    return Result(
        scenario="First run, restart, weight",
        setting=(
            f"{len(os.sched_getaffinity(0))} cores, engine threads as `tremplin up` chooses them, empty folder; "
            f"{rounds} first runs, {len(restart)} restarts. Worst memory: the peak after 10 s of short and 10 s "
            "of long texts over 128 connections, both versions (encoder int8, encoder and head int8) loaded."
        ),
        figures=[
            figure("empty folder to first answer", first, "s", at_most=20),
            figure("restart to ready", restart, "s", at_most=1.5),
            figure("memory idle", idle, "MB", at_most=200),
            figure("memory at worst", worst, "MB", at_most=400),
            *([figure("serving install, without the bundled model", size, "MB", at_most=300)] if size else []),
        ],
        notes=[
            "Install time is not counted. The size is that of the site-packages made by `make run`, less pip, "
            "setuptools and the bundled model's package (88 MB of weights, which another model would replace)."
        ],
    )


def _install_megabytes() -> list[float]:
    """Install the serving set as `make run` does and weigh it; empty when the registry is out of reach."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet"]
        done = subprocess.run(
            [*pip, "--require-hashes", "-r", str(ROOT / "requirements" / "serve.txt")], check=False
        )
        if done.returncode != 0:
            return []
        subprocess.run([*pip, "--no-deps", str(ROOT)], check=True)
        packages = next((venv / "lib").glob("python*/site-packages"))
        for name in ("pip", "setuptools", "pkg_resources"):
            shutil.rmtree(packages / name, ignore_errors=True)
        total = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
        return [total / 1e6]
