"""An answer does not depend on its batch neighbours: the real model, through the real queue.

In fp32 it holds to 1e-5. In int8 it holds to what the passport promises (``batch_dependence``): the ranges of the
static scheme are fixed at calibration, never taken over a batch, so what is left is a rounding that can fall on
the other side of a quantization step when a kernel adds in another order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tremplin.optimize.texts import bundled_texts
from tremplin.registry.manifest import TOKENIZER_FILE, Manifest
from tremplin.registry.passport import BatchCosts
from tremplin.registry.store import Registry
from tremplin.serve.admit import Admission, AdmissionLimits
from tremplin.serve.batch import BatchLimits
from tremplin.serve.call import Call
from tremplin.serve.costs import CostModel
from tremplin.serve.engines.catalogue import engine_of
from tremplin.serve.infer import Inferencer
from tremplin.serve.supervisor import time_limit
from tremplin.serve.tokenize import TextTokenizer

# Each row is computed, however often its text was asked.
ALONE = Call(use_cache=False)


@pytest.fixture(scope="module")
def published(published_data: Path) -> Registry:
    return Registry(published_data / "registry")


@asynccontextmanager
async def serving(registry: Registry, manifest: Manifest, limits: BatchLimits) -> AsyncIterator[Inferencer]:
    costs = CostModel(BatchCosts(8e-4, 0.0, 1e-4, 0.0))
    inferencer = Inferencer(
        manifest,
        TextTokenizer(registry.path(manifest, TOKENIZER_FILE), manifest.interface),
        engine_of(registry, manifest, threads=2).make,
        Admission(AdmissionLimits(), costs),
        costs,
        limits,
        time_limit(costs, 60.0),
    )
    inferencer.start()
    try:
        yield inferencer
    finally:
        inferencer.stop()


def texts_of_all_lengths(count: int) -> list[str]:
    generator = random.Random(5)
    texts = [generator.choice(bundled_texts(seed=0).evaluation) for _ in range(count)]
    return [" ".join([text] * generator.choice((1, 1, 1, 2, 5))) for text in texts]


@pytest.mark.parametrize(
    ("ref", "output"),
    [("minilm@1-fp32", "embedding"), ("minilm@2-int8", "embedding"), ("support-desk", "probabilities")],
)
async def test_a_text_alone_and_among_others(published: Registry, ref: str, output: str) -> None:
    manifest = published.resolve(ref)
    texts = texts_of_all_lengths(48)
    async with serving(published, manifest, BatchLimits(max_tokens=1024, max_rows=32)) as inferencer:
        alone = np.stack([(await inferencer.infer([text], ALONE)).stacked(output)[0] for text in texts])
        together = (await inferencer.infer(texts, ALONE)).stacked(output)
        scattered = await asyncio.gather(*(inferencer.infer([text], ALONE) for text in texts))
    among = np.stack([inference.stacked(output)[0] for inference in scattered])
    tolerance = 1e-5 if manifest.precision == "fp32" else _promised(published)
    assert np.abs(together - alone).max() <= tolerance
    assert np.abs(among - alone).max() <= tolerance


def _promised(registry: Registry) -> float:
    """What the encoder promises; the classifier is a head on the same graph."""
    bounds = registry.latest("minilm").quality.bounds
    (promised,) = [bound.at_most for bound in bounds if bound.metric == "batch_dependence"]
    assert promised is not None
    return promised


async def test_answers_are_in_the_order_of_the_texts(published: Registry) -> None:
    manifest = published.resolve("minilm@2-int8")
    texts = list(dict.fromkeys(texts_of_all_lengths(40)))
    async with serving(published, manifest, BatchLimits(max_tokens=256, max_rows=8)) as inferencer:
        alone = np.stack([(await inferencer.infer([text])).stacked("embedding")[0] for text in texts])
        for seed in range(5):
            order = random.Random(seed).sample(range(len(texts)), len(texts))
            found: NDArray[np.float32] = (await inferencer.infer([texts[i] for i in order])).stacked("embedding")
            assert np.argmax(found @ alone.T, axis=1).tolist() == order


async def test_a_caller_who_gives_up_leaves_room_and_harms_nobody(published: Registry) -> None:
    manifest = published.resolve("minilm@2-int8")
    texts = texts_of_all_lengths(24)
    async with serving(published, manifest, BatchLimits(max_tokens=128, max_rows=4)) as inferencer:
        expected = (await inferencer.infer(texts[:1])).stacked("embedding")
        leaving = asyncio.ensure_future(inferencer.infer(texts * 8))
        staying = [asyncio.ensure_future(inferencer.infer(texts[:1])) for _ in range(4)]
        await asyncio.sleep(0.01)
        leaving.cancel()
        for inference in await asyncio.gather(*staying):
            assert np.abs(inference.stacked("embedding") - expected).max() <= _promised(published)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert (inferencer.admission.queued_rows, inferencer.admission.queued_tokens) == (0, 0)
