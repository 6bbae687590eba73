"""What every engine keeps: load, warm up, run, health, close, and errors of ours."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_models
from tremplin.errors import EngineFailed
from tremplin.serve.engine import Engine, TokenBatch, pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

MakeEngine = Callable[[Path], Engine]

# One line per adapter; each reads an ONNX file.
ADAPTERS: dict[str, MakeEngine] = {
    "onnxruntime": lambda path: OnnxRuntimeEngine(path, threads=1),
    "onnxruntime, two threads": lambda path: OnnxRuntimeEngine(path, threads=2),
}
ROWS = [[2, 4, 3], [2, 5, 6, 7, 8, 3], [2, 3], [2, 1, 1, 1, 3]]


@pytest.fixture(params=ADAPTERS.values(), ids=ADAPTERS.keys())
def make(request: pytest.FixtureRequest) -> MakeEngine:
    made: MakeEngine = request.param
    return made


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return tiny_models.write_encoder(tmp_path / "model.onnx")


@pytest.fixture
def engine(make: MakeEngine, encoder: Path) -> Engine:
    engine = make(encoder)
    engine.load()
    return engine


def test_it_answers_one_row_for_each_row(engine: Engine) -> None:
    engine.warm_up()
    outputs = engine.run(pad(ROWS))
    assert set(outputs) == set(engine.outputs) == {"embedding"}
    assert outputs["embedding"].shape == (len(ROWS), tiny_models.DIM)
    assert outputs["embedding"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1.0, atol=1e-6)


def test_an_answer_does_not_depend_on_neighbours_or_padding(engine: Engine) -> None:
    together = engine.run(pad(ROWS))["embedding"]
    wide = pad([*ROWS, [1] * 16])
    among_longer = engine.run(wide)["embedding"][: len(ROWS)]
    alone = np.concatenate([engine.run(pad([row]))["embedding"] for row in ROWS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(among_longer, alone, atol=1e-6)
    ids = wide.input_ids.copy()
    ids[wide.attention_mask == 0] = 7  # whatever stands where the mask is 0
    np.testing.assert_allclose(
        engine.run(TokenBatch(ids, wide.attention_mask))["embedding"][: len(ROWS)], alone, atol=1e-6
    )


def test_it_answers_the_same_to_the_same(engine: Engine) -> None:
    first, second = (engine.run(pad(ROWS))["embedding"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_it_runs_on_the_thread_that_asks(engine: Engine) -> None:
    """It is loaded on one thread and run on another, which is what the queue does."""
    expected = engine.run(pad(ROWS))["embedding"]
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(engine.run, pad(ROWS)).result()["embedding"], expected)


def test_it_has_a_name_with_a_version(engine: Engine) -> None:
    name, _, version = engine.name.partition(" ")
    assert name
    assert version.split(".")[0].isdigit()


def test_health_follows_load_and_close(make: MakeEngine, encoder: Path) -> None:
    engine = make(encoder)
    assert not engine.health()
    engine.load()
    assert engine.health()
    engine.close()
    assert not engine.health()
    engine.close()
    engine.load()
    assert engine.health()
    engine.warm_up()


def test_running_before_loading_is_our_error(make: MakeEngine, encoder: Path) -> None:
    engine = make(encoder)
    for call in (lambda: engine.run(pad(ROWS)), engine.warm_up):
        with pytest.raises(EngineFailed, match="before it was loaded"):
            call()
    engine.load()
    engine.close()
    with pytest.raises(EngineFailed):
        engine.run(pad(ROWS))


@pytest.mark.parametrize("harm", ["empty", "half", "last byte", "text", "random", "folder", "missing"])
def test_a_file_that_is_no_graph_is_our_error(make: MakeEngine, encoder: Path, harm: str) -> None:
    whole = encoder.read_bytes()
    encoder.unlink()
    contents = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "last byte": whole[:-1],
        "text": b"This is not a graph.",
        "random": random.Random(0).randbytes(5000),
    }
    if harm == "folder":
        encoder.mkdir()
    elif harm != "missing":
        encoder.write_bytes(contents[harm])
    engine = make(encoder)
    with pytest.raises(EngineFailed) as raised:
        engine.load()
    message = str(raised.value)
    assert "publish the version again" in message
    assert str(encoder.parent) not in message, "a path of the server's disk reached a caller"
    assert "\n" not in message
    assert not engine.health()


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_graph_never_ends_the_process(make: MakeEngine, encoder: Path, seed: int) -> None:
    """Digests keep such a file from being served; the engine must survive one all the same."""
    generator = random.Random(seed)
    content = bytearray(encoder.read_bytes())
    for _ in range(4):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    encoder.write_bytes(content)
    engine = make(encoder)
    try:
        engine.load()
        engine.run(pad(ROWS))
    except EngineFailed:
        pass
    engine.close()


@pytest.mark.parametrize("token", [9, 10**6, -100])
def test_a_batch_it_cannot_run_is_our_error_and_the_next_one_runs(engine: Engine, token: int) -> None:
    with pytest.raises(EngineFailed) as raised:
        engine.run(pad([[2, token, 3]]))
    assert "\n" not in str(raised.value)
    assert engine.run(pad(ROWS))["embedding"].shape == (len(ROWS), tiny_models.DIM)
    assert engine.health()


def test_two_engines_do_not_know_each_other(make: MakeEngine, encoder: Path, tmp_path: Path) -> None:
    classifier = make(tiny_models.write_classifier(tmp_path / "classifier.onnx"))
    embedder = make(encoder)
    for engine in (classifier, embedder):
        engine.load()
    expected = embedder.run(pad(ROWS))["embedding"]
    done = threading.Event()

    def classify() -> None:
        while not done.is_set():
            classifier.run(pad(ROWS))

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(classify)
        for _ in range(50):
            np.testing.assert_array_equal(embedder.run(pad(ROWS))["embedding"], expected)
        done.set()
        busy.result()
    classifier.close()
    np.testing.assert_array_equal(embedder.run(pad(ROWS))["embedding"], expected)


def test_padding_masks_what_is_not_a_token() -> None:
    batch = pad([[5, 6], [7], [8, 9, 10]])
    np.testing.assert_array_equal(batch.input_ids, [[5, 6, 0], [7, 0, 0], [8, 9, 10]])
    np.testing.assert_array_equal(batch.attention_mask, [[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
