"""``tremplin export`` as a shell sees it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.live_server import run_command
from tests.unit.optimize.targets.exported_models import publish_encoder
from tremplin.registry.store import Registry


@pytest.fixture
def data(registry: Registry, tmp_path: Path) -> str:
    publish_encoder(registry, tmp_path / "encoder")
    return str(registry.root.parent)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_command("export", "embedding", "--to", "openvino", "--out", str(out), "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["version"] == "embedding@1-fp32"
    assert told["parity"]["max_difference"] < told["parity"]["tolerance"]["largest"]
    assert sorted(path.name for path in out.iterdir()) == [
        "export.json", "model.bin", "model.xml", "tokenizer.json",
    ]  # fmt: skip
    kept = json.loads((out / "export.json").read_text("utf-8"))
    assert kept["command"] == f"tremplin export embedding@1-fp32 --to openvino --out {out}"
    assert kept["tools"]["openvino"]


def test_tensorrt_dry_run(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("export", "embedding@1-fp32", "--to", "tensorrt", "--dry-run", "--half", "--out", str(out))
    done = run_command(*arguments, "--largest-shape", "8x16", "--data", data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Exported embedding@1-fp32 for tensorrt")
    assert "The engine was not built" in done.stdout
    assert "--maxShapes=input_ids:8x16,attention_mask:8x16" in (out / "build.sh").read_text()
    kept = json.loads((out / "export.json").read_text("utf-8"))
    assert kept["command"].endswith("--half --largest-shape 8x16 --dry-run")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("embedding", "--to", "coreml"), 3, "no target 'coreml'"),
        (("embedding", "--to", "openvino", "--half"), 3, "are for tensorrt"),
        (("nobody", "--to", "openvino"), 3, "no model 'nobody'"),
    ],
)
def test_what_cannot_be_exported(
    data: str, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run_command("export", *arguments, "--out", str(tmp_path / "out"), "--data", data)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
