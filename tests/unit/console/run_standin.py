"""Runs as they lie on disk, and what stands in for the processes that work them."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tremplin.console.desk import ATTEMPT_FILE, LOG_FILE, ORDER_FILE, PROGRAM
from tremplin.console.processes import DetachedLauncher, Process
from tremplin.errors import NotServable
from tremplin.optimize.recipes.run_folder import LOCK_FILE, Run, RunFolder, RunState
from tremplin.registry.manifest import Manifest
from tremplin.registry.store import Registry

STARTED, UPDATED = "2026-01-12T09:00:00.000+00:00", "2026-01-12T09:41:30.000+00:00"
CLASSES = ("cancel_order", "change_address", "get_refund", "track_order")

CHILD = """
import sys, time
from pathlib import Path
from tremplin.optimize.recipes.run_folder import RunFolder

given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
run = RunFolder(Path(given["data"]) / "runs", given["name"])
if (run.path / "fail").exists():
    print("tremplin: the file is not there any more.", file=sys.stderr)
    sys.exit(1)
with run.working("tremplin " + " ".join(sys.argv[1:]), sys.argv[2], lambda *_: None) as progress:
    for number in range(10_000):
        progress("lossless: fine-tune, epoch 1", 0.3)
        if (run.path / "end").exists():
            break
        time.sleep(0.02)
"""


class ChildLauncher(DetachedLauncher):
    """Real processes, as small as can be: they take the run's lock, tell a step, and end when a file says so."""

    def start(self, command: Sequence[str], log: Path) -> Process:
        return super().start([sys.executable, "-c", CHILD, *command[len(PROGRAM) :]], log)


@dataclass
class StandInLauncher:
    """Processes that are only numbers."""

    running: set[int] = field(default_factory=set)
    started: list[tuple[str, ...]] = field(default_factory=list)

    def start(self, command: Sequence[str], log: Path) -> Process:
        self.started.append(tuple(command))
        self.running.add(len(self.started))
        return Process(len(self.started), "then")

    def is_running(self, process: Process) -> bool:
        return process.pid in self.running

    def stop(self, process: Process) -> None:
        self.running.discard(process.pid)


def standin_publish(registry: Registry, run: Path, name: str) -> Manifest:
    """Publish nothing, and say what would have been published."""
    if name == "tiny":
        raise NotServable("tiny did not pass the gate: it may lose 3.10 points and 0.6 are allowed.")

    @dataclass(frozen=True)
    class Named:
        ref: str

    return cast(Manifest, Named(f"{run.name}@9-{name}-int8"))


# -- folders -------------------------------------------------------------------------------------------


def write_run(
    runs: Path,
    name: str,
    state: RunState,
    *,
    step: str = "balanced: distil, epoch 2",
    share: float = 0.43,
    seconds_left: float | None = None,
    error: str = "",
    published: tuple[str, ...] = (),
    is_ours: bool = True,
    pid: int = 0,
) -> Path:
    """Write a run as a command leaves it, and return its folder."""
    arguments = (
        "optimize", "minilm@1-fp32", f"--name={name}", "--labelled=/data/tickets.csv", "--allowed-loss=0.6",
        "--json",
    )  # fmt: skip
    folder = RunFolder(runs, name)
    folder.path.mkdir(parents=True)
    run = Run(
        name, state, f"tremplin {' '.join(arguments)}", "minilm@1-fp32", STARTED, UPDATED,
        step, share, seconds_left, error, published,
    )  # fmt: skip
    folder.write(run)
    if is_ours:
        (folder.path / ORDER_FILE).write_text(json.dumps(arguments))
        attempt = {"process": {"pid": pid, "began": "then"}, "since": STARTED, "was_stopped": False}
        (folder.path / ATTEMPT_FILE).write_text(json.dumps(attempt))
        (folder.path / LOG_FILE).write_text("Loading\ntremplin: it ended.\n")
    return folder.path


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run as the process that works it does."""
    with (folder / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_study(folder: Path, *, none_passes: bool = False) -> None:
    """Write what a study found beside a run."""
    entries = [
        entry("reference", 90_900_000, 0.9412, None, 9.6, (1, 1, 1), on_front=True),
        entry("lossless", 23_900_000, 0.9399, 0.13, 4.1, (2.3, 2.2, 2.5), upper=0.41, on_front=True),
        entry("balanced", 9_800_000, 0.9383, 0.29, 1.9, (5.1, 4.8, 5.3), upper=0.58),
        entry("small", 6_200_000, 0.9391, 0.21, 0.9, (10.4, 9.9, 11.2), upper=0.53, on_front=True),
        entry("tiny", 1_900_000, 0.9151, 2.61, 0.1, (88.0, 81.0, 95.0), upper=3.1, on_front=True, passes=False),
    ]
    if none_passes:
        entries = [entries[0], entries[4]]
    failures = [{"name": "instant", "reason": "The disk is full while quantize was writing."}]
    (folder / "study.json").write_text(json.dumps({"entries": entries, "failures": failures}))


def entry(
    name: str,
    size_bytes: int,
    accuracy: float,
    lost_points: float | None,
    p50_ms: float,
    faster: tuple[float, float, float],
    *,
    upper: float = 0.0,
    on_front: bool = False,
    passes: bool = True,
) -> dict[str, object]:
    """Return one version as ``recipes/study.py`` writes it."""
    is_reference = lost_points is None
    measured = {
        "name": "accuracy",
        "value": accuracy,
        "low": accuracy - 0.009,
        "high": accuracy + 0.008,
        "n": 3080,
    }
    loss = None if lost_points is None else loss_of(lost_points, upper, 3080)
    steps = ["fine-tune(epochs=3)"] if is_reference else ["fine-tune(epochs=3)", "distil(epochs=6)", "quantize"]
    reason = f"it may lose {upper:.2f} points and 0.6 are allowed"
    broken = "'get_refund' is broken: 21 of 130 rows lost and 1 gained, 15.4 points where 10 are tolerated"
    return {
        "name": name,
        "steps": steps,
        "recipe": "" if is_reference else f"name: {name}\nsteps:\n- fine-tune\n- quantize\n",
        "size_bytes": size_bytes,
        "metrics": [measured],
        "passes": None if is_reference else passes,
        "reasons": [] if passes else [reason, broken],
        "loss": loss,
        "speed": {
            "name": name, "p50_ms": p50_ms, "p95_ms": 1.2 * p50_ms, "p99_ms": 1.4 * p50_ms, "latency_n": 500,
            "alone_per_s": [900 / p50_ms] * 5, "batched_per_s": [3000 / p50_ms] * 5,
        },
        "faster_alone": list(faster),
        "faster_batched": [0.8 * ratio for ratio in faster],
        "on_front": on_front,
        "facts": {},
        "curves": [],
        "seconds": dict.fromkeys(steps, 412.0),
        "classes": [] if loss is None else [
            {"name": label, **loss_of(points, 2.0 + points, 130)}
            for label, points in zip(CLASSES, (0.0, 1.5, 15.4 if not passes else 0.8, -0.8), strict=True)
        ],
        "slices": [],
    }  # fmt: skip


def loss_of(points: float, upper: float, n: int) -> dict[str, float]:
    return {
        "points": points, "low": points - 0.5, "high": points + 0.5, "upper": upper, "n": n,
        "lost": max(1, round(points * n / 100)), "gained": 1,
    }  # fmt: skip
