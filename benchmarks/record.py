"""What a result is and where it is kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tremplin.machine import read_machine

RESULTS = Path(__file__).parent / "results"
SOFTWARE = ("onnxruntime", "tokenizers", "numpy", "uvicorn", "fastapi", "onnx", "ctranslate2", "openvino")


@dataclass(frozen=True)
class Figure:
    """One measured figure: the median of its rounds, and their spread."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    bar: str = ""
    """What was aimed at."""
    is_met: bool | None = None


@dataclass(frozen=True)
class Result:
    """One scenario, measured once."""

    scenario: str
    setting: str
    """Cores, threads, texts, in words."""
    figures: list[Figure]
    notes: list[str] = field(default_factory=list)
    software: dict[str, str] = field(default_factory=dict)
    """Versions of what runs in environments of its own, by name."""


def figure(
    name: str,
    rounds: Sequence[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Figure:
    """Return the figure of some rounds, held against its bar."""
    value = statistics.median(rounds)
    bar, is_met = "", None
    if at_least is not None:
        bar, is_met = f">= {at_least:g}", value >= at_least
    if at_most is not None:
        bar, is_met = f"<= {at_most:g}", value <= at_most
    print(f"{name:<58} {value:10.4g} {unit:<8} [{min(rounds):.4g}, {max(rounds):.4g}] {bar}", flush=True)
    return Figure(name, value, min(rounds), max(rounds), unit, bar, is_met)


def keep(name: str, result: Result) -> None:
    """Write a result with the machine and the versions it was measured with."""
    RESULTS.mkdir(exist_ok=True)
    found = {}
    for package in SOFTWARE:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    body = asdict(result) | {
        "machine": asdict(read_machine()),
        "software": found | result.software,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")


def draw() -> None:
    """Write RESULTS.md from the kept results."""
    lines = ["# Results", "", "Drawn by `make bench` from `results/*.json`; read ratios, not absolutes.", ""]
    for path in sorted(RESULTS.glob("*.json")):
        body = json.loads(path.read_text("utf-8"))
        machine = body["machine"]
        lines += [f"## {body['scenario']}", "", body["setting"], ""]
        lines += [
            f"{machine['cpu']}, {machine['cores']} cores ({machine['cores_from']}), "
            f"{' '.join(machine['flags'])}; "
            + ", ".join(f"{name} {number}" for name, number in body["software"].items())
            + f"; {body['measured_at'][:10]}.",
            "",
            "| figure | median | low .. high | bar | met |",
            "|---|---:|---:|---|---|",
        ]
        for row in body["figures"]:
            met = {True: "yes", False: "**no**", None: ""}[row["is_met"]]
            lines.append(
                f"| {row['name']} | {row['value']:.4g} {row['unit']} | {row['low']:.4g} .. {row['high']:.4g} "
                f"| {row['bar']} | {met} |"
            )
        lines += ["", *(f"- {note}" for note in body["notes"]), ""]
    (RESULTS.parent / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")
