"""One version, ready to answer: cache, coalescing, deadlines, callers who leave. Engine and graph are real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_models
from tests.echo_engine import PATIENCE_S
from tremplin.errors import DeadlinePassed, EmptyText, EngineFailed, TextTooLong
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.serve.admit import Admission, AdmissionLimits
from tremplin.serve.batch import BatchLimits
from tremplin.serve.cache import NoCache, ResultCache
from tremplin.serve.call import Call, Priority
from tremplin.serve.costs import CostModel
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.infer import Inferencer
from tremplin.serve.supervisor import time_limit
from tremplin.serve.tokenize import TextTokenizer
from tremplin.store.memory_cache import MemoryCache


class Watched(OnnxRuntimeEngine):
    """The real engine; notes what it ran, and can be held up or made to fail."""

    def __init__(self, model: Path) -> None:
        super().__init__(model, threads=1)
        import threading

        self.ran: list[TokenBatch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.is_harmed: Callable[[TokenBatch], bool] = lambda batch: True

    def run(self, batch: TokenBatch) -> Outputs:
        assert self.gate.wait(PATIENCE_S)
        self.ran.append(batch)
        if self.error is not None and self.is_harmed(batch):
            raise self.error
        return super().run(batch)

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.ran)


Made = tuple[Inferencer, Watched]


@pytest.fixture
def make(registry: Registry, tmp_path: Path) -> Iterator[Callable[..., Made]]:
    made: list[Made] = []
    manifest = tiny_models.publish(registry, tmp_path / "tiny")

    def build(cache: ResultCache | None = None, *, version: Manifest = manifest) -> Made:
        engine = Watched(registry.path(version, MODEL_FILE))
        costs = CostModel(tiny_models.speed_on(tiny_models.read_machine()).costs)
        inferencer = Inferencer(
            version,
            TextTokenizer(registry.path(version, TOKENIZER_FILE), version.interface),
            lambda: engine,
            Admission(AdmissionLimits(), costs),
            costs,
            BatchLimits(),
            time_limit(costs, 10.0),
            cache=cache or MemoryCache(1 << 20),
        )
        inferencer.start()
        engine.ran.clear()  # the warm-up
        made.append((inferencer, engine))
        return made[-1]

    yield build
    for inferencer, engine in made:
        engine.gate.set()
        inferencer.stop()


@pytest.fixture
def tiny(make: Callable[..., Made]) -> Made:
    return make()


def nothing_is_left(inferencer: Inferencer) -> bool:
    return (
        inferencer.admission.queued_rows,
        inferencer.admission.queued_tokens,
        inferencer._flights,
        inferencer._users,
    ) == (0, 0, {}, 0)


async def test_a_text_is_computed_once_and_its_answer_is_exact(tiny: Made) -> None:
    inferencer, engine = tiny
    first = await inferencer.infer(["alpha beta", "gamma"])
    await asyncio.sleep(0)
    again = await inferencer.infer(["gamma", "alpha beta", "alpha beta"])
    assert engine.rows == 2
    np.testing.assert_array_equal(again.stacked("embedding"), first.stacked("embedding")[[1, 0, 0]])
    assert (first.timings.cached, again.timings.cached) == (0, 3)
    assert again.lengths == [3, 4, 4]
    assert (first.timings.tokens, again.timings.tokens) == (7, 11)
    assert nothing_is_left(inferencer)


async def test_a_repeated_text_in_one_request_is_computed_once(tiny: Made) -> None:
    inferencer, engine = tiny
    inference = await inferencer.infer(["alpha", "beta", "alpha", "alpha"])
    assert engine.rows == 2
    vectors = inference.stacked("embedding")
    np.testing.assert_array_equal(vectors[[0, 2, 3]], vectors[[0, 0, 0]])
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1


async def test_what_is_cached_and_what_is_not_come_back_in_order(tiny: Made) -> None:
    inferencer, _ = tiny
    texts = ["alpha", "beta", "gamma", "delta", "epsilon"]
    alone = [(await inferencer.infer([text], Call(use_cache=False))).stacked("embedding")[0] for text in texts]
    await inferencer.infer(texts[1::2])
    await asyncio.sleep(0)
    inference = await inferencer.infer(texts)
    assert inference.timings.cached == 2
    np.testing.assert_allclose(inference.stacked("embedding"), np.stack(alone), atol=1e-6)


@pytest.mark.parametrize("other", [Call("bob"), Call("alice", use_cache=False)])
async def test_answers_are_not_shared_between_tenants_nor_with_who_declines(tiny: Made, other: Call) -> None:
    inferencer, engine = tiny
    await inferencer.infer(["alpha"], Call("alice"))
    await asyncio.sleep(0)
    inference = await inferencer.infer(["alpha"], other)
    assert (engine.rows, inference.timings.cached) == (2, 0)


async def test_texts_pairs_and_ids_are_not_taken_for_each_other(tiny: Made) -> None:
    inferencer, _ = tiny
    keys = inferencer.keys
    found = [
        *keys.of_texts("t", ["1,2", "ab"]),
        *keys.of_pairs("t", [("1,2", ""), ("a", "b"), ("ab", "")]),
        *keys.of_ids("t", [[1, 2], [12]]),
        *keys.of_texts("t2", ["1,2"]),
    ]
    assert len(set(found)) == len(found)


async def test_another_version_finds_nothing(
    make: Callable[..., Made], registry: Registry, tmp_path: Path
) -> None:
    cache = MemoryCache(1 << 20)
    old, _ = make(cache)
    await old.infer(["alpha"])
    await asyncio.sleep(0)
    folder = tmp_path / "other"
    folder.mkdir()
    new = registry.publish(
        tiny_models.manifest_of(version="2-fp32"),
        {
            MODEL_FILE: tiny_models.write_encoder(folder / MODEL_FILE),
            TOKENIZER_FILE: tiny_models.write_tokenizer(
                folder / TOKENIZER_FILE,
            ),
        },
    )
    same_graph, _ = make(cache, version=new)
    assert same_graph.keys.version == old.keys.version
    assert (await same_graph.infer(["alpha"])).timings.cached == 1
    await cache.drop(old.keys.version)
    assert (await same_graph.infer(["alpha"])).timings.cached == 0


async def test_the_same_text_in_flight_is_computed_once(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    asked = [asyncio.ensure_future(inferencer.infer(["alpha", f"beta {word}"])) for word in ("gamma",) * 20]
    await asyncio.sleep(0.01)
    assert inferencer.admission.queued_rows == 2
    engine.gate.set()
    answers = await asyncio.gather(*asked)
    assert engine.rows == 2
    for inference in answers:
        np.testing.assert_array_equal(inference.stacked("embedding"), answers[0].stacked("embedding"))
    assert nothing_is_left(inferencer)


async def test_who_joined_is_not_harmed_by_a_row_he_did_not_ask_for(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.error = EngineFailed("a bad text")
    engine.is_harmed = lambda batch: bool((batch.attention_mask.sum(axis=1) > 4).any())
    engine.gate.clear()
    culprit = asyncio.ensure_future(inferencer.infer(["alpha", "beta", "alpha beta gamma delta"]))
    await asyncio.sleep(0.01)
    joined = [asyncio.ensure_future(inferencer.infer(texts)) for texts in (["alpha"], ["beta", "gamma"])]
    bad = asyncio.ensure_future(inferencer.infer(["alpha beta gamma delta"]))
    await asyncio.sleep(0.01)
    assert inferencer.admission.queued_rows == 4, "they share what is computed"
    engine.gate.set()
    answers = await asyncio.gather(*joined)
    for asked in (culprit, bad):
        with pytest.raises(EngineFailed, match="a bad text"):
            await asked
    engine.error = None
    for inference, texts in zip(answers, (["alpha"], ["beta", "gamma"]), strict=True):
        alone = await inferencer.infer(texts, Call(use_cache=False))
        np.testing.assert_allclose(inference.stacked("embedding"), alone.stacked("embedding"), atol=1e-6)
    assert nothing_is_left(inferencer)


async def test_nobody_joins_what_may_be_dropped_any_moment(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    running = asyncio.ensure_future(inferencer.infer(["epsilon"]))
    await asyncio.sleep(0.02)
    late = asyncio.ensure_future(inferencer.infer(["alpha"], Call(deadline=time.perf_counter() + 0.05)))
    await asyncio.sleep(0)
    joined = asyncio.ensure_future(inferencer.infer(["alpha"]))
    time.sleep(0.1)  # noqa: ASYNC251 - the event loop is late: the deadline has passed, and nobody was told
    await asyncio.sleep(0)
    assert inferencer.admission.queued_rows == 3
    with pytest.raises(DeadlinePassed):
        await late
    engine.gate.set()
    assert (await asyncio.wait_for(joined, PATIENCE_S)).stacked("embedding").shape == (1, 4)
    await running
    assert nothing_is_left(inferencer)


async def test_who_began_may_leave_while_who_joins_still_tokenizes(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    running = asyncio.ensure_future(inferencer.infer(["epsilon"]))
    await asyncio.sleep(0.02)
    began = asyncio.ensure_future(inferencer.infer(["alpha"]))
    await asyncio.sleep(0.01)
    joined = asyncio.ensure_future(inferencer.infer(["alpha", "beta " * 1000]))  # long: tokenized on a thread
    await asyncio.sleep(0)
    began.cancel()
    with pytest.raises(asyncio.CancelledError):
        await began
    await asyncio.sleep(0.05)
    engine.gate.set()
    assert (await asyncio.wait_for(joined, PATIENCE_S)).stacked("embedding").shape == (2, 4)
    await running
    assert nothing_is_left(inferencer)


async def test_the_same_bad_text_is_not_tried_for_everyone_who_asks(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.error = EngineFailed("a bad text")
    engine.gate.clear()
    asked = [asyncio.ensure_future(inferencer.infer(["alpha"])) for _ in range(10)]
    await asyncio.sleep(0.01)
    engine.gate.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, EngineFailed) for one in found)
    assert len(engine.ran) == 2  # in its batch, and once alone
    assert nothing_is_left(inferencer)


async def test_who_began_may_leave_without_harm_to_who_joined(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    began = asyncio.ensure_future(inferencer.infer(["alpha"]))
    await asyncio.sleep(0.01)
    joined = asyncio.ensure_future(inferencer.infer(["alpha"]))
    await asyncio.sleep(0.01)
    began.cancel()
    with pytest.raises(asyncio.CancelledError):
        await began
    engine.gate.set()
    assert (await joined).stacked("embedding").shape == (1, 4)
    assert engine.rows == 1
    assert nothing_is_left(inferencer)


async def test_when_all_have_left_the_work_is_dropped_and_counted_out_at_once(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    running = asyncio.ensure_future(inferencer.infer(["epsilon"]))
    await asyncio.sleep(0.02)
    waiting = [asyncio.ensure_future(inferencer.infer(["alpha", "beta"])) for _ in range(3)]
    await asyncio.sleep(0.02)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert inferencer.admission.queued_rows == 1
    engine.gate.set()
    await running
    await inferencer.infer(["gamma"])
    assert engine.rows == 2
    assert nothing_is_left(inferencer)


async def test_a_deadline_is_kept_to_and_does_not_end_what_others_wait_for(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    hasty = asyncio.ensure_future(inferencer.infer(["alpha"], Call(deadline=time.perf_counter() + 0.05)))
    await asyncio.sleep(0.01)
    patient = asyncio.ensure_future(inferencer.infer(["alpha"]))
    with pytest.raises(DeadlinePassed, match=r"after 0\.0\d+ s"):
        await asyncio.wait_for(hasty, PATIENCE_S)
    engine.gate.set()
    assert (await patient).lengths == [3]
    assert nothing_is_left(inferencer)


async def test_interactive_callers_do_not_wait_for_bulk_computations(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    running = asyncio.ensure_future(inferencer.infer(["epsilon"]))
    await asyncio.sleep(0.02)
    bulk = asyncio.ensure_future(inferencer.infer(["alpha"], Call(priority=Priority.BULK)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    interactive = asyncio.ensure_future(inferencer.infer(["alpha"]))
    joining = asyncio.ensure_future(inferencer.infer(["alpha"], Call(priority=Priority.BULK)))
    await asyncio.sleep(0.01)
    assert inferencer.admission.queued_rows == 3
    engine.gate.set()
    await asyncio.gather(running, bulk, interactive, joining)


async def test_a_failure_reaches_all_who_wait_and_is_not_kept(tiny: Made) -> None:
    inferencer, engine = tiny
    engine.gate.clear()
    asked = [asyncio.ensure_future(inferencer.infer(["alpha"])) for _ in range(3)]
    await asyncio.sleep(0.01)
    engine.error = EngineFailed("broken")
    engine.gate.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["broken"] * 3
    engine.error = None
    assert (await inferencer.infer(["alpha"])).timings.cached == 0
    assert nothing_is_left(inferencer)


async def test_a_long_text_is_refused_before_it_is_computed_and_from_the_cache_as_well(tiny: Made) -> None:
    inferencer, engine = tiny
    long = " ".join(["alpha"] * 40)
    with pytest.raises(TextTooLong, match="Text 1 ") as raised:
        await inferencer.infer(["beta", long], truncate=False)
    assert raised.value.pointer == "/1"
    assert engine.rows == 0
    assert (await inferencer.infer([long])).timings.truncated == 1
    await asyncio.sleep(0)
    with pytest.raises(TextTooLong, match="Text 2 "):
        await inferencer.infer(["beta", "gamma", long], truncate=False)
    with pytest.raises(EmptyText, match="Text 2 ") as empty:
        await inferencer.infer([long, "beta", " "])
    assert empty.value.pointer == "/2"


async def test_without_a_cache_work_in_flight_is_still_shared(make: Callable[..., Made]) -> None:
    inferencer, engine = make(NoCache())
    engine.gate.clear()
    asked = [asyncio.ensure_future(inferencer.infer(["alpha"])) for _ in range(5)]
    await asyncio.sleep(0.01)
    engine.gate.set()
    await asyncio.gather(*asked)
    assert engine.rows == 1
    assert (await inferencer.infer(["alpha"])).timings.cached == 0
    assert engine.rows == 2
