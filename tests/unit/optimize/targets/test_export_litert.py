"""Graphs of every kind in LiteRT; without TensorFlow, that the translation knows every operator we write."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.unit.optimize.small_encoder import write_small_encoder
from tests.unit.optimize.targets.exported_models import GRAPHS, encoder_of, parity_of, tolerance
from tremplin.errors import MissingExtra, PassFailed
from tremplin.optimize.passes.graph import read_graph
from tremplin.optimize.targets.catalogue import TargetOptions, target_of
from tremplin.optimize.targets.litert import LiteRtTarget, float_bytes
from tremplin.optimize.targets.tensorflow_graph import check_operators
from tremplin.registry.manifest import Interface
from tremplin.registry.task import Task

IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("tensorflow", "ai_edge_litert"))

needs_tensorflow = pytest.mark.skipif(
    not IS_INSTALLED, reason="TensorFlow and LiteRT are not installed: pip install 'tremplin[litert]'"
)


@pytest.mark.parametrize("kind", GRAPHS)
def test_every_operator_that_we_write_is_known(kind: str, tmp_path: Path) -> None:
    check_operators(read_graph(GRAPHS[kind](tmp_path / "model.onnx")))


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    model = onnx.load(str(write_small_encoder(tmp_path / "model.onnx")))
    model.graph.node.append(helper.make_node("Einsum", ["embedding", "embedding"], ["products"], equation="ij,kj"))
    model.graph.node.append(helper.make_node("Hardmax", ["products"], ["hard"]))
    with pytest.raises(PassFailed, match="The graph has Einsum, Hardmax, which Tremplin does not translate"):
        check_operators(model)


def test_quantized_weights_are_counted_as_floats(tmp_path: Path) -> None:
    plain = read_graph(write_small_encoder(tmp_path / "plain.onnx"))
    quantized = read_graph(GRAPHS["static int8"](tmp_path / "model.onnx"))
    words = 3 * 200 * 32  # what int8 saves of the word table, which stays int8
    assert float_bytes(quantized) == pytest.approx(float_bytes(plain) - words, rel=0.1)


@pytest.mark.skipif(IS_INSTALLED, reason="TensorFlow is installed")
def test_without_tensorflow_the_message_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match=r"tremplin\[litert\]"):
        target_of("litert", TargetOptions(), Interface(Task.EMBEDDING, 16, 9))


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", GRAPHS)
def test_answers_are_the_versions(kind: str, tmp_path: Path) -> None:
    graph = GRAPHS[kind](tmp_path / "model.onnx")
    parity = parity_of(LiteRtTarget(), graph, tmp_path / "out", tolerance(kind))
    assert parity.n == 21


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")
def test_the_word_table_of_an_int8_version_stays_int8(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    written = LiteRtTarget().write(GRAPHS["static int8"](tmp_path / "model.onnx"), tmp_path / "out")
    assert written.computes == "int8 values in float32"
    (tmp_path / "plain").mkdir()
    assert LiteRtTarget().write(encoder_of("bert")(tmp_path / "b.onnx"), tmp_path / "plain").computes == "float32"
