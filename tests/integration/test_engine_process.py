"""An engine in a process of its own: real crashes, real hangs, no other request lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import tiny_models
from tremplin.errors import EngineCrashed, EngineFailed, EngineHung
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE
from tremplin.registry.store import Registry
from tremplin.serve.admit import Admission, AdmissionLimits
from tremplin.serve.batch import BatchLimits
from tremplin.serve.call import Call
from tremplin.serve.costs import CostModel
from tremplin.serve.engine import pad
from tremplin.serve.engines.catalogue import EngineName, EngineSpec
from tremplin.serve.engines.process import ProcessEngine
from tremplin.serve.infer import Inferencer
from tremplin.serve.supervisor import time_limit
from tremplin.serve.tokenize import TextTokenizer

WORDS = tiny_models.WORDS


def children() -> list[int]:
    return [
        process.pid
        for process in psutil.Process().children()
        if "tremplin.serve.engines.process" in " ".join(process.cmdline())
    ]


def wait_ended(engine: ProcessEngine) -> None:
    deadline = time.monotonic() + 10
    while engine.health() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not engine.health()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ProcessEngine]:
    spec = EngineSpec(EngineName.ONNX_RUNTIME, str(tiny_models.write_encoder(tmp_path / "model.onnx")), streams=2)
    made = ProcessEngine(spec, lambda batch: 10.0)
    made.load()
    yield made
    made.close()
    assert children() == []


def test_a_crash_is_our_error_and_the_next_batch_is_answered(engine: ProcessEngine) -> None:
    expected = engine.run(pad([[2, 4, 3]]))["embedding"]
    for pid in children():
        os.kill(pid, signal.SIGSEGV)
    wait_ended(engine)
    for _ in range(4):
        np.testing.assert_array_equal(engine.run(pad([[2, 4, 3]]))["embedding"], expected)
    assert engine.health()


def test_a_crash_in_the_middle_of_a_batch_says_so(engine: ProcessEngine) -> None:
    for pid in children():
        os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, lambda: [os.kill(pid, signal.SIGKILL) for pid in children()]).start()
    with pytest.raises(EngineCrashed, match="in the middle of a batch"):
        engine.run(pad([[2, 4, 3]]))
    wait_ended(engine)
    assert engine.run(pad([[2, 4, 3]]))["embedding"].shape == (1, 4)


def test_closing_frees_a_run_that_hangs(engine: ProcessEngine) -> None:
    for pid in children():
        os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, engine.close).start()
    started = time.perf_counter()
    with pytest.raises(EngineFailed):
        engine.run(pad([[2, 4, 3]]))
    assert time.perf_counter() - started < 10
    assert not engine.health()


def test_health_comes_back_with_a_warm_up(engine: ProcessEngine) -> None:
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    wait_ended(engine)
    engine.warm_up()
    assert engine.health()
    assert len(children()) == 2


def test_a_hang_ends_only_the_process_that_hangs(tmp_path: Path) -> None:
    spec = EngineSpec(EngineName.ONNX_RUNTIME, str(tiny_models.write_encoder(tmp_path / "model.onnx")), streams=2)
    engine = ProcessEngine(spec, lambda batch: 0.5)
    engine.load()
    first, second = children()
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(EngineHung, match=r"1 rows within 0\.5 s"):
        engine.run(pad([[2, 4, 3]]))
    assert children() == [second]
    for _ in range(2):
        engine.run(pad([[2, 4, 3]]))
    assert len(children()) == 2
    engine.close()


async def test_crashes_and_hangs_under_load_lose_no_request(registry: Registry, tmp_path: Path) -> None:
    """Processes are killed and stopped at random while callers ask; every one gets his own, right answer."""
    manifest = tiny_models.publish(registry, tmp_path / "tiny")
    spec = EngineSpec(EngineName.ONNX_RUNTIME, str(registry.path(manifest, MODEL_FILE)), streams=2)
    costs = CostModel(tiny_models.speed_on(tiny_models.read_machine()).costs)
    inferencer = Inferencer(
        manifest,
        TextTokenizer(registry.path(manifest, TOKENIZER_FILE), manifest.interface),
        lambda: ProcessEngine(spec, lambda batch: 1.0),
        Admission(AdmissionLimits(), costs),
        costs,
        BatchLimits(max_rows=4),
        time_limit(costs, 1.0),
        streams=2,
    )
    inferencer.start()
    texts = [" ".join(WORDS[i % 5 :][: 1 + i % 3]) for i in range(15)]
    alone = [(await inferencer.infer([text])).stacked("embedding")[0] for text in texts]
    done = 0
    stop = time.monotonic() + 13

    async def caller(number: int) -> None:
        nonlocal done
        turn = number
        while time.monotonic() < stop:
            turn += 1
            asked = [(turn + k) % len(texts) for k in range(1 + turn % 3)]
            inference = await inferencer.infer([texts[i] for i in asked], Call(use_cache=False))
            np.testing.assert_allclose(
                inference.stacked("embedding"), np.stack([alone[i] for i in asked]), atol=1e-6
            )
            done += 1

    async def trouble() -> int:
        # Further apart than a hang is noticed: a row that is struck twice is taken for the culprit.
        count = 0
        while time.monotonic() < stop - 3:
            await asyncio.sleep(1.8)
            found = children()
            if found:
                os.kill(found[count % len(found)], (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)[count % 3])
                count += 1
        return count

    try:
        harmed, *_ = await asyncio.gather(trouble(), *(caller(number) for number in range(12)))
    finally:
        inferencer.stop()
    assert harmed >= 5
    assert done > 200
    assert children() == []
