from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.optimize.small_encoder import VOCABULARY, write_small_encoder
from tremplin.errors import EngineFailed
from tremplin.machine import read_machine
from tremplin.optimize.measure import Effort, measure_speed
from tremplin.serve.costs import CostModel
from tremplin.serve.engines.catalogue import EngineName, EngineSpec

EFFORT = Effort(((1, 16), (8, 16), (1, 300)), rounds=3, seconds_per_round=0.01, latency_runs=20)


def engine(path: Path) -> EngineSpec:
    return EngineSpec(EngineName.ONNX_RUNTIME, str(path))


def test_a_version_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = write_small_encoder(tmp_path / "model.onnx")
    speed = measure_speed(
        engine(path), machine=read_machine(), max_tokens=256, vocab_size=VOCABULARY, effort=EFFORT
    )
    assert [(shape.rows, shape.tokens) for shape in speed.throughput] == [(1, 16), (8, 16)], "300 > max_tokens"
    assert all(0 < shape.low <= shape.texts_per_s <= shape.high for shape in speed.throughput)
    assert 0 < speed.p50_ms <= speed.p99_ms
    assert 20e6 < speed.peak_memory_bytes < 400e6
    assert speed.software["onnxruntime"] in speed.engine
    predicted_s = CostModel(speed.costs).batch_s(8, 16)
    assert 0.2 < predicted_s * speed.throughput[1].texts_per_s / 8 < 5


def test_peak_memory_leaves_the_parent_out(tmp_path: Path) -> None:
    path = write_small_encoder(tmp_path / "model.onnx")
    ballast = b"x" * 600_000_000  # the parent is far larger than the child will be
    speed = measure_speed(
        engine(path), machine=read_machine(), max_tokens=256, vocab_size=VOCABULARY, effort=EFFORT
    )
    assert speed.peak_memory_bytes < len(ballast)


def test_a_graph_that_cannot_run_is_an_error_without_a_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineFailed) as caught:
        measure_speed(
            engine(tmp_path / "model.onnx"), machine=read_machine(), max_tokens=8, vocab_size=9, effort=EFFORT
        )
    assert "Traceback" not in str(caught.value)
