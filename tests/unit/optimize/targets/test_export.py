"""An export is whole and proven, or not there."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.optimize.targets.exported_models import publish_encoder
from tremplin.errors import BadInput, OptimizeFailed, PassFailed
from tremplin.optimize.targets.catalogue import TargetOptions, read_shape, target_of
from tremplin.optimize.targets.export import EXPORT_FILE, Exported, export_version
from tremplin.optimize.targets.target import Run, Shape, Written
from tremplin.optimize.texts import bundled_texts
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

ARTEFACT = "graph.copy"


class Copy:
    """A target whose files are the graph itself, and whose answers may be moved."""

    name = "copy"
    runtime = "copier 1"
    is_half = False
    largest: Shape | None = None
    tools: Mapping[str, str] = {"copier": "1"}

    def __init__(self, *, off_by: float = 0.0, fails: Exception | None = None) -> None:
        self._off_by = off_by
        self._fails = fails

    def check(self, graph: Path) -> None:
        assert graph.suffix == ".onnx"

    def write(self, graph: Path, folder: Path) -> Written:
        (folder / ARTEFACT).write_bytes(graph.read_bytes())
        if self._fails:
            raise self._fails
        return Written("float32", ("A note.",), {"threads": 1})

    def open(self, folder: Path) -> Run:
        engine = OnnxRuntimeEngine(folder / ARTEFACT, threads=1)
        engine.load()

        def run(batch: TokenBatch) -> Outputs:
            return {name: value + np.float32(self._off_by) for name, value in engine.run(batch).items()}

        return run


@pytest.fixture
def manifest(registry: Registry, tmp_path: Path) -> Manifest:
    return publish_encoder(registry, tmp_path / "encoder")


def export(registry: Registry, manifest: Manifest, folder: Path, target: Copy | None = None) -> Exported:
    return export_version(
        registry, manifest, target or Copy(), folder, bundled_texts(), command="tremplin export ..."
    )


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_export_is_the_files_the_tokenizer_and_the_evidence(
    registry: Registry, manifest: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "exports" / "copy"
    exported = export(registry, manifest, out)
    assert left_in(out) == sorted([EXPORT_FILE, ARTEFACT, TOKENIZER_FILE])
    assert (out / ARTEFACT).read_bytes() == registry.path(manifest, MODEL_FILE).read_bytes()
    assert (out / TOKENIZER_FILE).read_bytes() == registry.path(manifest, TOKENIZER_FILE).read_bytes()
    told = json.loads((out / EXPORT_FILE).read_text("utf-8"))
    assert told["version"] == exported.version == manifest.ref
    assert told["model_sha256"] == manifest.artefact(MODEL_FILE).sha256
    assert {file["name"]: file["sha256"] for file in told["files"]} == {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in (ARTEFACT, TOKENIZER_FILE)
    }
    assert told["parity"]["max_difference"] == 0
    assert told["parity"]["n"] > 60
    assert told["tools"]["copier"] == "1"
    assert told["tools"]["onnxruntime"]
    assert (told["command"], told["notes"]) == ("tremplin export ...", ["A note."])
    assert exported.size_bytes == sum((out / name).stat().st_size for name in (ARTEFACT, TOKENIZER_FILE))


def test_an_empty_folder_is_filled(registry: Registry, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(registry, manifest, tmp_path / "out")
    assert EXPORT_FILE in left_in(tmp_path / "out")


def test_a_folder_with_something_in_it_is_refused_and_kept(
    registry: Registry, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(BadInput, match="not empty"):
        export(registry, manifest, tmp_path / "out")
    assert left_in(tmp_path / "out") == ["mine"]


def test_a_file_in_its_place_is_refused(registry: Registry, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        export(registry, manifest, tmp_path / "out")


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [
        (Copy(off_by=1e-3), PassFailed, "differ from the version's by 0.001"),
        (Copy(fails=OSError(errno.ENOSPC, "No space left")), OptimizeFailed, "the disk is full"),
        (Copy(fails=OSError(errno.EIO, "Input/output error")), OptimizeFailed, "Input/output error"),
        (Copy(fails=RuntimeError("no such layer")), PassFailed, "does not take the graph: no such layer"),
    ],
)
def test_nothing_is_left_of_an_export_that_failed(
    registry: Registry, manifest: Manifest, tmp_path: Path, target: Copy, error: type[Exception], said: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(error, match=said):
        export(registry, manifest, place / "exports" / "copy", target)
    assert left_in(place) == []


def test_a_version_without_a_graph_is_refused(registry: Registry, manifest: Manifest, tmp_path: Path) -> None:
    other = replace(manifest, artefacts=(manifest.artefact(TOKENIZER_FILE),))
    with pytest.raises(BadInput, match=r"has no graph \(model\.onnx\).*consists of tokenizer\.json"):
        export(registry, other, tmp_path / "out")


# -- which target --------------------------------------------------------------------------------------


def test_an_unknown_target_is_refused(manifest: Manifest) -> None:
    with pytest.raises(BadInput, match="no target 'coreml'; choose among openvino, litert, tensorrt, tvm"):
        target_of("coreml", TargetOptions(), manifest.interface)


def test_options_of_another_target_are_refused(manifest: Manifest) -> None:
    with pytest.raises(BadInput, match="are for tensorrt"):
        target_of("openvino", TargetOptions(half=True), manifest.interface)


@pytest.mark.parametrize("text", ["16", "16x", "x32", "0x8", "4x-2", "axb"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is not a shape"):
        read_shape(text)


def test_options_are_told_as_a_command_line_has_them() -> None:
    options = TargetOptions(half=True, largest_shape="8x128", dry_run=True)
    assert options.arguments == ["--half", "--largest-shape", "8x128", "--dry-run"]
    assert TargetOptions().arguments == []
