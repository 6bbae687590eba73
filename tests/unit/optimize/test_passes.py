from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.unit.optimize.small_encoder import WIDE, random_rows, write_small_encoder
from tremplin.errors import PassFailed
from tremplin.optimize.calibrate import ChannelStatistics, collect_statistics
from tremplin.optimize.passes.dynamic_int8 import DynamicInt8
from tremplin.optimize.passes.graph import linears, quantize_columns, read_graph
from tremplin.optimize.passes.static_int8 import StaticInt8
from tremplin.optimize.run_graph import run_alone, run_rows
from tremplin.serve.engine import pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_encoder(tmp_path_factory.mktemp("encoder") / "fp32.onnx")


@pytest.fixture(scope="module")
def statistics(encoder: Path) -> dict[str, ChannelStatistics]:
    return dict(collect_statistics(encoder, random_rows(60), threads=1))


def vectors(path: Path, rows: list[list[int]]) -> np.ndarray:
    engine = OnnxRuntimeEngine(path, threads=1)
    engine.load()
    return np.stack(run_rows(engine, rows, "embedding"))


def mean_cosine(encoder: Path, quantized: Path) -> float:
    rows = random_rows(80, seed=9)
    return float((vectors(encoder, rows) * vectors(quantized, rows)).sum(axis=1).mean())


def test_statistics_see_every_linear_and_leave_padding_out(encoder: Path) -> None:
    rows = random_rows(30)
    together = collect_statistics(encoder, rows, threads=1)
    alone = [collect_statistics(encoder, [row], threads=1) for row in rows]
    assert set(together) == {"h", "active"}
    for name, found in together.items():
        np.testing.assert_allclose(found.high, np.max([a[name].high for a in alone], axis=0), atol=1e-5)
        np.testing.assert_allclose(found.low, np.min([a[name].low for a in alone], axis=0), atol=1e-5)
        assert (found.sample <= found.high + 1e-5).all()


def test_quantized_columns_are_within_half_a_step() -> None:
    weight = np.random.default_rng(3).normal(size=(16, 8)).astype(np.float32)
    columns, scales = quantize_columns(weight)
    assert columns.dtype == np.int8
    assert np.abs(columns * scales - weight).max() <= scales.max() / 2 + 1e-7


@given(
    weight=arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-1e6, 1e6, width=32)
    )
)
def test_narrow_pairs_fit_sixteen_bits_whatever_the_activations(weight: np.ndarray) -> None:
    columns, scales = quantize_columns(weight, narrow=True)
    even = np.concatenate([columns, np.zeros((len(columns) % 2, columns.shape[1]), np.int8)]).astype(np.int64)
    highest = 255 * np.maximum(even, 0).reshape(-1, 2, columns.shape[1]).sum(axis=1)
    lowest = 255 * np.minimum(even, 0).reshape(-1, 2, columns.shape[1]).sum(axis=1)
    assert highest.max() < 2**15
    assert lowest.min() >= -(2**15)
    assert np.abs(columns * scales.astype(np.float64) - weight).max() <= scales.max() * 0.501 + 1e-12


def test_narrow_weights_answer_the_same_with_fast_and_with_precise_kernels(
    encoder: Path, statistics: dict[str, ChannelStatistics], tmp_path: Path
) -> None:
    """On a CPU with VNNI the kernels are the same; without it the fast ones cut what does not fit."""
    step = StaticInt8(statistics, smooth=True, outlier_channels=4, narrow=True)
    assert step.name == "static-int8+smooth+outliers4+narrow"
    assert step.call(encoder, tmp_path / "narrow.onnx").narrow_weights
    assert mean_cosine(encoder, tmp_path / "narrow.onnx") > 0.99
    batch = pad(random_rows(40, seed=9))
    answers = []
    for narrow_weights in (False, True):
        engine = OnnxRuntimeEngine(tmp_path / "narrow.onnx", threads=1, narrow_weights=narrow_weights)
        engine.load()
        answers.append(engine.run(batch)["embedding"])
    np.testing.assert_array_equal(*answers)


def test_wide_weights_lose_nothing_to_overflow(
    encoder: Path, statistics: dict[str, ChannelStatistics], tmp_path: Path
) -> None:
    """Against the same arithmetic in NumPy's integers, whatever this CPU can do."""
    StaticInt8(statistics, smooth=False, outlier_channels=0).call(encoder, tmp_path / "int8.onnx")
    model = read_graph(tmp_path / "int8.onnx")
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("wide.mm.u8", onnx.TensorProto.UINT8), ("wide.mm", onnx.TensorProto.FLOAT))
    )
    onnx.save(model, str(tmp_path / "watched.onnx"))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    engine = OnnxRuntimeEngine(tmp_path / "watched.onnx", threads=1)
    engine.load()
    outputs = engine.run(pad(random_rows(40, seed=9)))
    centred = outputs["wide.mm.u8"].astype(np.int64) - constants["widen.weight.x_zero"].item()
    exact = (centred @ constants["widen.weight.int8"].astype(np.int64)).astype(np.float64)
    exact *= constants["widen.weight.x_scale"].item() * constants["widen.weight.scale"].astype(np.float64)
    np.testing.assert_allclose(outputs["wide.mm"], exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("outliers", [0, 4])
def test_static_keeps_the_vectors_near(
    encoder: Path, statistics: dict[str, ChannelStatistics], tmp_path: Path, smooth: bool, outliers: int
) -> None:
    step = StaticInt8(statistics, smooth=smooth, outlier_channels=outliers)
    result = step.call(encoder, tmp_path / "int8.onnx")
    assert result.linears == 2
    assert mean_cosine(encoder, tmp_path / "int8.onnx") > 0.99
    onnx.checker.check_model(str(tmp_path / "int8.onnx"))
    assert not linears(read_graph(tmp_path / "int8.onnx")) or outliers, "float weights are left"


def test_outlier_channels_win_back_what_one_channel_costs(
    encoder: Path, statistics: dict[str, ChannelStatistics], tmp_path: Path
) -> None:
    StaticInt8(statistics, smooth=False, outlier_channels=0).call(encoder, tmp_path / "plain.onnx")
    StaticInt8(statistics, smooth=False, outlier_channels=4).call(encoder, tmp_path / "split.onnx")
    lost_plain = 1 - mean_cosine(encoder, tmp_path / "plain.onnx")
    lost_split = 1 - mean_cosine(encoder, tmp_path / "split.onnx")
    assert lost_split < lost_plain / 4


def test_an_answer_of_a_static_version_does_not_depend_on_its_neighbours(
    encoder: Path, statistics: dict[str, ChannelStatistics], tmp_path: Path
) -> None:
    StaticInt8(statistics, smooth=True, outlier_channels=4).call(encoder, tmp_path / "int8.onnx")
    engine = OnnxRuntimeEngine(tmp_path / "int8.onnx", threads=1)
    engine.load()
    rows = random_rows(64, seed=4)
    alone = np.stack(run_alone(engine, rows, "embedding"))
    together = np.stack(run_rows(engine, rows, "embedding"))
    assert np.abs(alone - together).max() < 1e-5


def test_dynamic_answers_depend_on_neighbours_and_that_is_why_it_is_no_default(
    encoder: Path, tmp_path: Path
) -> None:
    DynamicInt8().call(encoder, tmp_path / "dynamic.onnx")
    engine = OnnxRuntimeEngine(tmp_path / "dynamic.onnx", threads=1)
    engine.load()
    rows = random_rows(64, seed=4)
    difference = np.abs(
        np.stack(run_alone(engine, rows, "embedding")) - np.stack(run_rows(engine, rows, "embedding"))
    ).max()
    assert difference > 1e-4
    assert mean_cosine(encoder, tmp_path / "dynamic.onnx") > 0.98


def test_float_layers_keep_the_most_sensitive_product(
    encoder: Path, statistics: dict[str, ChannelStatistics], tmp_path: Path
) -> None:
    step = StaticInt8(statistics, smooth=False, outlier_channels=0, float_layers=1)
    assert step.name == "static-int8+float1"
    assert step.call(encoder, tmp_path / "mixed.onnx").linears == 1
    left = linears(read_graph(tmp_path / "mixed.onnx"))
    assert [linear.weight.shape for linear in left] == [(WIDE, 32)], "the product after the outlier"


def test_a_head_is_never_quantized(
    encoder: Path, statistics: dict[str, ChannelStatistics], tmp_path: Path
) -> None:
    model = onnx.load(str(encoder))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((32, 3), np.float32), "head.weight"))
    model.graph.node.append(
        onnx.helper.make_node("MatMul", ["embedding", "head.weight"], ["logits"], name="head.matmul")
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", 1, ["rows", 3]))
    onnx.save(model, str(tmp_path / "with_head.onnx"))
    StaticInt8(statistics, smooth=True, outlier_channels=0).call(tmp_path / "with_head.onnx", tmp_path / "q.onnx")
    kept = {tensor.name: tensor.data_type for tensor in read_graph(tmp_path / "q.onnx").graph.initializer}
    assert kept["head.weight"] == onnx.TensorProto.FLOAT


def test_statistics_of_another_graph_are_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(PassFailed, match="another graph"):
        StaticInt8({}, smooth=True, outlier_channels=0).call(encoder, tmp_path / "x.onnx")


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x0a"])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(PassFailed):
        DynamicInt8().call(tmp_path / "broken.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
