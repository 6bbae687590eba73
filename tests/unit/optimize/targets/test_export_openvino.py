"""Graphs of every kind, in OpenVINO's own format and runtime."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.unit.optimize.targets.exported_models import GRAPHS, parity_of, publish_classifier, tolerance
from tremplin.errors import PassFailed
from tremplin.optimize.targets.export import export_version
from tremplin.optimize.targets.openvino import ARTEFACT, OpenVinoTarget
from tremplin.optimize.texts import bundled_texts
from tremplin.registry.store import Registry

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="OpenVINO is not installed: pip install 'tremplin[openvino]'",
)


# Their rows are remainders of numbers above 2**24, which OpenVINO's CPU computes in float32.
WRONG_IN_OPENVINO = ("bigrams", "tables of 8 bits", "tables of 4 bits")


@pytest.mark.parametrize("kind", [kind for kind in GRAPHS if kind not in WRONG_IN_OPENVINO])
def test_answers_are_the_versions(kind: str, tmp_path: Path) -> None:
    graph = GRAPHS[kind](tmp_path / "model.onnx")
    parity = parity_of(OpenVinoTarget(), graph, tmp_path / "out", tolerance(kind))
    assert parity.runtime.startswith("openvino 2")


@pytest.mark.parametrize("kind", WRONG_IN_OPENVINO)
def test_what_openvino_answers_otherwise_is_refused(kind: str, tmp_path: Path) -> None:
    graph = GRAPHS[kind](tmp_path / "model.onnx")
    with pytest.raises(PassFailed, match="embedding that differ from the version's by"):
        parity_of(OpenVinoTarget(), graph, tmp_path / "out", tolerance("int8"))


def test_weights_keep_their_precision(registry: Registry, tmp_path: Path) -> None:
    manifest = publish_classifier(registry, tmp_path / "classifier")
    exported = export_version(
        registry, manifest, OpenVinoTarget(), tmp_path / "out", bundled_texts(), command="tremplin export"
    )
    assert exported.computes == "float32"
    assert exported.parity.label_agreement == 1.0
    sizes = {file.name: file.size_bytes for file in exported.files}
    graph = registry.path(manifest, "model.onnx").stat().st_size
    assert sizes["model.bin"] > 0.7 * graph, "half of it when weights become float16"
    assert ARTEFACT in sizes


def test_int8_weights_stay_int8(tmp_path: Path) -> None:
    graph = GRAPHS["static int8"](tmp_path / "model.onnx")
    (tmp_path / "out").mkdir()
    written = OpenVinoTarget().write(graph, tmp_path / "out")
    assert written.computes == "int8"
    assert any("VNNI" in note for note in written.notes)
    assert (tmp_path / "out" / "model.bin").stat().st_size < 1.3 * graph.stat().st_size
