from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.optimize.small_encoder import VOCABULARY, write_small_encoder
from tremplin.errors import EngineFailed
from tremplin.machine import read_machine
from tremplin.optimize.measure import Effort, measure_speed
from tremplin.registry.passport import Speed, Throughput

EFFORT = Effort(((1, 16), (8, 16), (1, 300)), rounds=3, seconds_per_round=0.01, latency_runs=20)


def test_a_version_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = write_small_encoder(tmp_path / "model.onnx")
    speed = measure_speed(
        path, machine=read_machine(), threads=1, max_tokens=256, vocab_size=VOCABULARY, effort=EFFORT
    )
    assert [(shape.rows, shape.tokens) for shape in speed.throughput] == [(1, 16), (8, 16)], "300 > max_tokens"
    assert all(0 < shape.low <= shape.texts_per_s <= shape.high for shape in speed.throughput)
    assert 0 < speed.p50_ms <= speed.p99_ms
    assert 20e6 < speed.peak_memory_bytes < 400e6
    assert speed.software["onnxruntime"] in speed.engine


def test_peak_memory_leaves_the_parent_out(tmp_path: Path) -> None:
    path = write_small_encoder(tmp_path / "model.onnx")
    ballast = b"x" * 600_000_000  # the parent is far larger than the child will be
    speed = measure_speed(
        path, machine=read_machine(), threads=1, max_tokens=256, vocab_size=VOCABULARY, effort=EFFORT
    )
    assert speed.peak_memory_bytes < len(ballast)


def test_a_graph_that_cannot_run_is_an_error_without_a_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineFailed) as caught:
        measure_speed(
            tmp_path / "model.onnx", machine=read_machine(), threads=1, max_tokens=8, vocab_size=9, effort=EFFORT
        )
    assert "Traceback" not in str(caught.value)


def speed_with(*shapes: tuple[int, int, float]) -> Speed:
    return Speed(
        read_machine(), "ort", 1, "", 3, 1.0, 1, 1.0, 2.0, 16, 10,
        tuple(Throughput(rows, tokens, rate, rate, rate) for rows, tokens, rate in shapes),
    )  # fmt: skip


def test_the_best_batch_is_the_largest_within_three_percent_of_the_best_rate() -> None:
    speed = speed_with((1, 16, 100), (16, 16, 200), (32, 16, 197), (64, 16, 120), (4, 128, 10))
    assert speed.best_batch_tokens() == 512
    assert speed.tokens_per_s() == 3200


def test_nothing_measured_gives_the_default() -> None:
    assert speed_with().best_batch_tokens(default=128) == 128
    assert speed_with().tokens_per_s() == 0
