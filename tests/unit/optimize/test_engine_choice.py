"""Which engines run a version: the decision over invented evidence, and the evidence from real engines."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_models
from tremplin.errors import MissingExtra, StartFailed
from tremplin.machine import read_machine
from tremplin.optimize import engines
from tremplin.optimize.engines import MIXABLE, Candidate, choose, choose_engines
from tremplin.optimize.measure import Effort
from tremplin.registry.passport import BatchCosts, Metric, Speed
from tremplin.registry.store import Registry
from tremplin.serve.engine import pad
from tremplin.serve.engines.catalogue import EngineName, EngineSpec
from tremplin.serve.engines.routed import RoutedCosts, RoutedEngine, plan

QUICKLY = Effort(((1, 4), (4, 8), (8, 16)), rounds=1, seconds_per_round=0.01, latency_runs=10)
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="pip install 'tremplin[openvino]'")


def candidate(name: EngineName, start_ms: float, token_us: float, *, difference: float = 0.0) -> Candidate:
    """An engine that takes so long to start a batch, and for each token."""
    costs = BatchCosts(start_ms / 1e3, 0.0, token_us / 1e6, 0.0)
    agreement = (Metric("engine_difference_max", difference, difference, difference, 1),)
    speed = replace(tiny_models.speed_on(read_machine()), costs=costs, agreement=agreement)
    return Candidate(EngineSpec(name, "graph"), speed)


ORT = candidate(EngineName.ONNX_RUNTIME, 0.5, 100)


def test_alone_there_is_nothing_to_choose() -> None:
    kept, (verdict,) = choose(ORT, [])
    assert kept == [ORT]
    assert (verdict.is_kept, verdict.reason) == (True, "alone")


def test_engines_that_agree_and_win_somewhere_are_mixed() -> None:
    vino = candidate(EngineName.OPENVINO, 4, 60, difference=MIXABLE / 2)
    kept, verdicts = choose(ORT, [vino])
    assert kept == [ORT, vino]
    assert [verdict.reason for verdict in verdicts] == [
        "fastest for 1x8, 1x16, 4x16, 1x64",
        "fastest for 8x16, 32x16, 4x64, 1x128, 1x256",
    ]
    costs = RoutedCosts([one.speed.costs for one in kept])
    assert plan([one.spec.name for one in kept], costs).startswith("1x16 onnxruntime, 8x16 openvino")


def test_one_that_wins_by_less_than_its_memory_is_worth_is_left_out() -> None:
    vino = candidate(EngineName.OPENVINO, 4, 97)
    kept, verdicts = choose(ORT, [vino])
    assert kept == [ORT]
    assert verdicts[1].reason == "nowhere faster by 5%"


def test_one_that_wins_everywhere_stands_alone() -> None:
    vino = candidate(EngineName.OPENVINO, 0.4, 80)
    kept, _ = choose(ORT, [vino])
    assert kept == [vino]


@pytest.mark.parametrize(("start_ms", "token_us", "is_chosen"), [(0.4, 80, True), (4, 60, False)])
def test_one_that_answers_otherwise_is_taken_alone_or_not_at_all(
    start_ms: float, token_us: float, is_chosen: bool
) -> None:
    ct2 = candidate(EngineName.CTRANSLATE2, start_ms, token_us, difference=3 * MIXABLE)
    kept, verdicts = choose(ORT, [ct2])
    assert kept == ([ct2] if is_chosen else [ORT])
    if not is_chosen:
        assert verdicts[1].reason.startswith("differs by 0.030, so only alone")


# -- real engines --------------------------------------------------------------------------------------


@needs_openvino
def test_what_is_installed_is_measured_judged_and_kept_in_the_passport(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tiny_models.publish(registry, tmp_path / "tiny")
    monkeypatch.setattr(engines, "installed", lambda: [EngineName.ONNX_RUNTIME, EngineName.OPENVINO])

    def chosen(wanted: str) -> engines.EngineChoice:
        return choose_engines(
            registry, manifest, read_machine(), wanted=wanted, threads=1, folder=tmp_path / "e", effort=QUICKLY
        )

    choice = chosen("auto")
    assert {verdict.engine for verdict in choice.verdicts} == {EngineName.ONNX_RUNTIME, EngineName.OPENVINO}
    assert len(choice.specs) == len(choice.costs) >= 1
    kept = registry.speed(manifest, read_machine().id, 1, "openvino")
    assert kept is not None
    measured: dict[str, Metric] = {metric.name: metric for metric in kept.agreement}
    assert measured["cosine_min"].value > 0.9999
    assert measured["engine_difference_max"].value < 1e-5
    written = sorted(path.stat().st_mtime_ns for path in registry.root.rglob("speed/*.json"))
    assert chosen("auto").specs == choice.specs
    assert sorted(path.stat().st_mtime_ns for path in registry.root.rglob("speed/*.json")) == written, (
        "measured again"
    )
    assert chosen("openvino").specs[0].name is EngineName.OPENVINO
    assert chosen("onnxruntime").specs[0].name is EngineName.ONNX_RUNTIME


def test_an_engine_that_misses_the_bound_is_not_taken(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tiny_models.publish(registry, tmp_path / "tiny")
    machine = read_machine()
    bad: Speed = replace(tiny_models.speed_on(machine), agreement=(Metric("cosine_mean", 0.97, 0.96, 0.98, 9),))
    registry.record_speed(manifest, bad, "openvino")
    monkeypatch.setattr(engines, "installed", lambda: [EngineName.ONNX_RUNTIME, EngineName.OPENVINO])
    options = {"threads": 1, "folder": tmp_path, "effort": QUICKLY}
    choice = choose_engines(registry, manifest, machine, wanted="auto", **options)  # type: ignore[arg-type]
    assert [spec.name for spec in choice.specs] == [EngineName.ONNX_RUNTIME]
    assert choice.verdicts[0].reason.startswith("misses the version's bound: cosine_mean >= 0.99 is not proven")
    with pytest.raises(StartFailed, match="with openvino"):
        choose_engines(registry, manifest, machine, wanted="openvino", **options)  # type: ignore[arg-type]
    huge = replace(bad, agreement=(Metric("cosine_mean", 1.0, 1.0, 1.0, 9),), peak_memory_bytes=1 << 60)
    registry.record_speed(manifest, huge, "openvino")
    choice = choose_engines(registry, manifest, machine, wanted="auto", **options)  # type: ignore[arg-type]
    assert "of the memory here" in choice.verdicts[0].reason


def test_an_engine_that_is_not_installed_says_how_to_get_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tiny_models.publish(registry, tmp_path / "tiny")
    monkeypatch.setattr(engines, "installed", lambda: [EngineName.ONNX_RUNTIME])
    with pytest.raises(MissingExtra, match=r"pip install 'tremplin\[openvino\]'"):
        choose_engines(
            registry, manifest, read_machine(), wanted="openvino", threads=1, folder=tmp_path, effort=QUICKLY
        )


def test_each_batch_goes_to_the_engine_that_is_fastest_for_its_shape(tmp_path: Path) -> None:
    path = str(tiny_models.write_encoder(tmp_path / "model.onnx"))
    made = [EngineSpec(EngineName.ONNX_RUNTIME, path).make() for _ in range(2)]
    ran: list[int] = []
    for number, engine in enumerate(made):
        run = engine.run
        engine.run = lambda batch, number=number, run=run: (ran.append(number), run(batch))[1]  # type: ignore[method-assign, misc]
    # The first costs more to start, the second more for each token: they meet at 40 tokens.
    costs = RoutedCosts(
        [replace(ORT.speed.costs, batch_s=4e-3, row_s=0.0, token_s=1e-4, pair_s=0.0, knees=()),
         replace(ORT.speed.costs, batch_s=0.0, row_s=0.0, token_s=2e-4, pair_s=0.0, knees=())]
    )  # fmt: skip
    routed = RoutedEngine(made, costs)
    routed.load()
    short, long = pad([[2, 3]]), pad([[2] * 16] * 8)
    assert (costs.fastest(1, 2), costs.fastest(8, 16)) == (1, 0)
    alone = made[0].run(short)["embedding"]
    ran.clear()
    np.testing.assert_array_equal(routed.run(short)["embedding"], alone)
    routed.run(long)
    assert ran == [1, 0]
    assert costs.batch_s(1, 2) < costs.batch_s(8, 16)
    for _ in range(400):  # the second has become slower than the first for everything
        costs.models[1].observe(1, 2, 0.02)
    assert costs.fastest(1, 2) == 0
    assert routed.health()
    routed.close()
    assert not routed.health()


def test_as_many_costs_as_engines() -> None:
    with pytest.raises(ValueError, match="0 engines were given costs for 1"):
        RoutedEngine([], RoutedCosts([ORT.speed.costs]))
