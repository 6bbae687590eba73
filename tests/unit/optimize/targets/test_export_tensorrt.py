"""What can be known of TensorRT without a GPU: the script, the operators, the conditions on quantization."""

from __future__ import annotations

import importlib.util
import re
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.optimize.targets.exported_models import GRAPHS, encoder_of, parity_of, publish_encoder
from tremplin.errors import BadInput, MissingExtra, PassFailed
from tremplin.optimize.passes.graph import read_graph
from tremplin.optimize.targets.catalogue import TargetOptions, target_of
from tremplin.optimize.targets.export import export_version
from tremplin.optimize.targets.parity import FLOAT16
from tremplin.optimize.targets.target import Shape
from tremplin.optimize.targets.tensorrt import (
    Profile,
    TensorRtScript,
    build_script,
    check_graph,
    halved,
)
from tremplin.optimize.texts import bundled_texts
from tremplin.registry.manifest import Interface
from tremplin.registry.store import Registry
from tremplin.registry.task import Task

INTERFACE = Interface(Task.EMBEDDING, 16, 200)
FLOAT_GRAPHS = [kind for kind in GRAPHS if "int8" not in kind and "tables" not in kind]


@pytest.mark.parametrize("kind", FLOAT_GRAPHS)
def test_the_parser_knows_every_operator_that_we_write(kind: str, tmp_path: Path) -> None:
    notes = check_graph(read_graph(GRAPHS[kind](tmp_path / "model.onnx")))
    assert any("opset 21" in note for note in notes)
    assert any("CumSum" in note for note in notes) == (kind in ("roberta", "xlm-roberta", "camembert", "mpnet"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("static int8", "no Gather of bytes"),
        ("dynamic int8", "DynamicQuantizeLinear, MatMulInteger"),
        ("tables of 8 bits", "no Gather of bytes"),
        ("tables of 4 bits", "BitShift, BitwiseAnd"),
    ],
)
def test_our_quantized_versions_are_refused_with_the_way_out(kind: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PassFailed, match=f"{said}.*Export the fp32 version"):
        check_graph(read_graph(GRAPHS[kind](tmp_path / "model.onnx")))


@pytest.mark.parametrize(
    ("kind", "zero", "is_taken"), [(np.int8, 0, True), (np.int8, 3, False), (np.uint8, 0, False)]
)
def test_int8_around_zero_is_the_one_that_is_taken(kind: type, zero: int, is_taken: bool) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["y"]),
    ]
    constants = {"scale": np.array(0.1, np.float32), "zero": np.array(zero, kind)}
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    if is_taken:
        assert check_graph(model) == ()
        return
    with pytest.raises(PassFailed, match=r"int8 values around 0.*Export the fp32 version"):
        check_graph(model)


def test_the_script_builds_for_every_shape_up_to_the_largest() -> None:
    script = build_script(["input_ids", "attention_mask"], Profile(Shape(8, 32), Shape(16, 128), 512))
    assert script.startswith("#!/bin/sh\n")
    assert "--onnx=model.onnx" in script
    for kind, shape in (("min", "1x1"), ("opt", "8x32"), ("max", "16x128")):
        assert f"--{kind}Shapes=input_ids:{shape},attention_mask:{shape}" in script
    assert "--memPoolSize=workspace:512" in script
    assert "--saveEngine=model.engine" in script


def test_a_dry_run_leaves_the_graph_and_the_script(registry: Registry, tmp_path: Path) -> None:
    manifest = publish_encoder(registry, tmp_path / "encoder")
    target = target_of("tensorrt", TargetOptions(dry_run=True), manifest.interface)
    exported = export_version(
        registry, manifest, target, tmp_path / "out", bundled_texts(), command="tremplin export"
    )
    assert [file.name for file in exported.files] == ["build.sh", "model.onnx", "tokenizer.json"]
    assert (tmp_path / "out" / "build.sh").stat().st_mode & stat.S_IXUSR
    assert "on the graph for TensorRT" in exported.parity.runtime
    assert any("engine was not built" in note for note in exported.notes)
    script = (tmp_path / "out" / "build.sh").read_text()
    assert "maxShapes=input_ids:64x16" in script, "longer than the model reads is never asked for"


@pytest.mark.parametrize("kind", FLOAT_GRAPHS)
def test_a_halved_graph_answers_as_float16_does(kind: str, tmp_path: Path) -> None:
    graph = GRAPHS[kind](tmp_path / "model.onnx")
    script = TensorRtScript(Profile(), half=True)
    (tmp_path / "half").mkdir()
    assert script.write(graph, tmp_path / "half").computes == "float16"
    (size, half_size) = (graph.stat().st_size, (tmp_path / "half" / "model.onnx").stat().st_size)
    assert half_size < 0.75 * size
    with pytest.raises(PassFailed, match="allowed"):  # it is float16, and not close enough for float32
        parity_of(script, graph, tmp_path / "strict")
    parity = parity_of(script, graph, tmp_path / "out", FLOAT16)
    assert parity.n == 21


def test_guards_against_zero_stay_float32(tmp_path: Path) -> None:
    model = halved(read_graph(encoder_of("bert")(tmp_path / "model.onnx")))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {types[name] for name in types if "min_norm" in name or "min_count" in name} == {TensorProto.FLOAT}
    assert types["encoder.0.attention.qkv.weight"] == TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.FLOAT}
    onnx.checker.check_model(model)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_message_says_what_to_do() -> None:
    with pytest.raises(MissingExtra, match=re.escape("pip install tensorrt") + ".*--dry-run"):
        target_of("tensorrt", TargetOptions(), INTERFACE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (TargetOptions(largest_shape="8", dry_run=True), "not a shape"),
        (TargetOptions(best_shape="64x16", largest_shape="8x16", dry_run=True), "larger than the largest"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(options: TargetOptions, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        target_of("tensorrt", options, INTERFACE)
