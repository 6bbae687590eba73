"""``tremplin doctor``: what this machine lets Tremplin do, and what is missing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import typer

from tremplin.cli.options import Data, Json


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    is_fine: bool
    detail: str


def doctor(data: Data = None, json: Json = False) -> None:
    """Look at the machine, the packages and the data folder; exit with 1 when something is wrong."""
    from tremplin.cli.show import out, print_json

    findings = _findings(data)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "[green]ok  [/green]" if finding.is_fine else "[red]FAIL[/red]"
            out.print(f"{mark} {finding.subject:<16} {finding.detail}", highlight=False)
    if not all(finding.is_fine for finding in findings):
        raise typer.Exit(1)


def _findings(data: Data) -> list[Finding]:
    from tremplin.config import read_settings
    from tremplin.errors import TremplinError
    from tremplin.machine import read_machine
    from tremplin.optimize.bundled import bundled_model
    from tremplin.registry.store import check_servable
    from tremplin.wiring import open_registry

    machine = read_machine()
    findings = [
        Finding(
            "machine", True,
            f"{machine.cpu}, {machine.cores} cores from {machine.cores_from}, "
            f"{machine.memory_bytes / 2**30:.1f} GiB, {' '.join(machine.flags)}",
        ),
        *(_package(name) for name in ("onnxruntime", "tokenizers", "onnx")),
    ]  # fmt: skip
    try:
        findings.append(Finding("bundled model", True, str(bundled_model())))
    except TremplinError as error:
        findings.append(Finding("bundled model", False, str(error)))
    try:
        registry = open_registry(read_settings(data=data))
        for model in registry.models():
            for manifest in registry.versions(model):
                for artefact in manifest.artefacts:
                    registry.path(manifest, artefact.name)
                broken = check_servable(manifest, forced=True)
                detail = f"{manifest.size_bytes / 1e6:.1f} MB" + (f", {broken[0]}" if broken else "")
                findings.append(Finding(manifest.ref, True, detail))
    except TremplinError as error:
        findings.append(Finding("registry", False, str(error)))
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, f"not installed: pip install {name}")
