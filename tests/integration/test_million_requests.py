"""A long run of the whole request journey: none mis-routed, none lost, none answered twice.

The inferencer, its admission, cache, lanes, threads, supervisor and watchdog are the real ones, over engines whose
answers say whose they are. Requests of random splits and sizes are cancelled, expire, repeat, are refused and come
back; engines raise, give too few rows, run out of memory and hang; versions are swapped under way.

``TREMPLIN_SOAK_REQUESTS`` says how many; a million in ``make test-all``, some thousands in ``make test``.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tiny_models
from tests.echo_engine import EchoEngine, costs
from tremplin.errors import (
    DeadlinePassed,
    EngineFailed,
    EngineHung,
    EngineOutOfMemory,
    Overloaded,
    TremplinError,
)
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Artefact, Interface, Manifest
from tremplin.registry.task import Task
from tremplin.serve.admit import Admission, AdmissionLimits
from tremplin.serve.batch import BatchLimits
from tremplin.serve.call import Call, Priority
from tremplin.serve.engine import Engine, Outputs, TokenBatch
from tremplin.serve.infer import Inferencer
from tremplin.serve.supervisor import time_limit
from tremplin.serve.tokenize import TextTokenizer
from tremplin.store.memory_cache import MemoryCache

SHORT, LONG = 12_000, 1_000_000
VOCABULARY = 1 << 22
POISON = 997  # rows whose first token is a multiple of this fail alone
CALLERS = 64


class SwappedEngine(EchoEngine):
    """Answers ``first + generation`` beside the row itself: which version answered shows in every answer."""

    outputs = ("embedding", "length")

    def __init__(self, generation: int, trouble: random.Random, counts: Counter[str]) -> None:
        super().__init__()
        self.generation = generation
        self.trouble = trouble
        self.counts = counts

    def run(self, batch: TokenBatch) -> Outputs:
        first = batch.input_ids[:, 0]
        if (first % POISON == 0).any():
            self.counts["poisoned batches"] += 1
            raise EngineFailed("poison")
        chance = self.trouble.random()
        if chance < 0.002:
            self.counts["raised"] += 1
            raise RuntimeError("a bug in an adapter")
        if chance < 0.003:
            self.counts["out of memory"] += 1
            raise EngineOutOfMemory("no memory")
        if chance < 0.0031:
            self.counts["hung"] += 1
            time.sleep(1.5)
        rows = len(first) - 1 if 0.004 < chance < 0.005 and len(first) > 1 else len(first)
        self.counts["short of rows"] += rows != len(first)
        return {
            "embedding": (first * 4 + self.generation)[:rows].astype("f4"),
            "length": batch.attention_mask.sum(axis=1)[:rows].astype("f4"),
        }


def manifest_of(generation: int) -> Manifest:
    """A version whose digest is its own, so that caches keep versions apart."""
    made = tiny_models.manifest_of(version=f"{generation}-fp32")
    artefacts = tuple(Artefact(name, f"{generation:064x}", 1) for name in (MODEL_FILE, TOKENIZER_FILE))
    return replace(
        made, artefacts=artefacts, interface=Interface(Task.EMBEDDING, 512, VOCABULARY, embedding_dim=1)
    )


class Journey:
    """Callers, the version that serves now, and what became of every request."""

    def __init__(self, tokenizer: TextTokenizer, requests: int, seed: int) -> None:
        self.tokenizer = tokenizer
        self.left = requests
        self.generator = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.cache = MemoryCache(4 << 20)
        self.generation = 0
        self.current = self.start_version()
        self.retiring: list[asyncio.Task[None]] = []

    def start_version(self) -> Inferencer:
        self.generation += 1
        generation, trouble = self.generation % 4, random.Random(self.generation)
        make: Callable[[], Engine] = lambda: SwappedEngine(generation, trouble, self.counts)  # noqa: E731
        model = costs()
        inferencer = Inferencer(
            manifest_of(self.generation),
            self.tokenizer,
            make,
            Admission(AdmissionLimits(max_queue_tokens=20_000), model, streams=2),
            model,
            BatchLimits(max_tokens=512, max_rows=32),
            time_limit(model, 0.5),
            streams=2,
            cache=self.cache,
        )
        inferencer.start()
        return inferencer

    async def swap(self) -> None:
        """Put another version in the place of the current one, which answers what it has."""
        while self.left > 0:
            await asyncio.sleep(self.generator.uniform(0.2, 0.6))
            old, self.current = self.current, await asyncio.to_thread(self.start_version)
            self.counts["swaps"] += 1

            async def retire(old: Inferencer = old) -> None:
                await old.wait_unused()
                await asyncio.to_thread(old.stop)
                await self.cache.drop(old.keys.version)
                assert (old.admission.queued_rows, old.admission.queued_tokens) == (0, 0)
                assert old._flights == {}

            self.retiring.append(asyncio.ensure_future(retire()))

    def rows(self) -> list[list[int]]:
        """A request: a few rows or many, some of them asked before, so that caches and flights are shared."""
        draw = self.generator
        count = draw.choice((1, 1, 1, 2, 3, draw.randint(1, 40)))
        return [
            [draw.randint(1, 3000) if draw.random() < 0.3 else draw.randint(3001, 900_000)]
            + [1] * draw.choice((0, 4, 9, 30, 100))
            for _ in range(count)
        ]

    async def caller(self) -> None:
        while self.left > 0:
            self.left -= 1
            await self.ask()

    async def ask(self) -> None:
        draw, rows = self.generator, self.rows()
        deadline = time.perf_counter() + draw.choice((0.0005, 0.005, 5.0)) if draw.random() < 0.1 else None
        call = Call(
            draw.choice(("a", "b")), draw.choice((None, *Priority)), deadline, use_cache=draw.random() < 0.8
        )
        version = self.current
        generation = int(version.manifest.version.split("-")[0]) % 4
        asking = asyncio.ensure_future(version.infer_ids(rows, call))
        if draw.random() < 0.05:
            await asyncio.sleep(draw.choice((0, 0, 0.001)))
            asking.cancel()
        try:
            inference = await asking
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
        except DeadlinePassed:
            assert deadline is not None
            self.counts["expired"] += 1
        except Overloaded as refusal:
            self.counts["refused"] += 1
            await asyncio.sleep(min(refusal.retry_after_s, 0.05))
        except EngineHung:
            self.counts["gave up"] += 1
        except TremplinError as error:
            self.failed(error, rows)
        else:
            found = [(int(row.answer[0]), int(row.answer[1])) for row in inference.rows]
            assert found == [(row[0] * 4 + generation, len(row)) for row in rows], "mis-routed"
            assert not any(row[0] % POISON == 0 for row in rows)
            self.counts["answered"] += 1

    def failed(self, error: TremplinError, rows: list[list[int]]) -> None:
        """Only a request that holds a poisoned row may fail; other troubles pass and are tried again."""
        is_poisoned = any(row[0] % POISON == 0 for row in rows)
        assert is_poisoned if str(error) == "poison" else _is_unlucky(error), f"{error} for {rows}"
        self.counts["failed" if str(error) == "poison" else "unlucky"] += 1

    async def run(self) -> None:
        swapping = asyncio.ensure_future(self.swap())
        await asyncio.gather(*(self.caller() for _ in range(CALLERS)))
        await swapping
        await asyncio.gather(*self.retiring)
        await self.current.wait_unused()
        await asyncio.to_thread(self.current.stop)


def _is_unlucky(error: TremplinError) -> bool:
    """Whether a row met trouble of the engine's twice, the second time alone: as rare as its square."""
    return "RuntimeError" in str(error) or "no memory" in str(error) or "rows of" in str(error)


@pytest.mark.parametrize(
    "requests",
    [SHORT, pytest.param(int(os.environ.get("TREMPLIN_SOAK_REQUESTS", LONG)), marks=pytest.mark.slow)],
)
async def test_none_is_misrouted_lost_or_answered_twice(tmp_path: Path, requests: int) -> None:
    path = tiny_models.write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = TextTokenizer(path, Interface(Task.EMBEDDING, 512, VOCABULARY))
    journey = Journey(tokenizer, requests, seed=requests)
    before = threading.active_count()
    started = time.monotonic()
    await journey.run()
    counts = journey.counts
    outcomes = ("answered", "failed", "cancelled", "expired", "refused", "gave up", "unlucky")
    print(f"{requests} requests in {time.monotonic() - started:.0f} s: {dict(counts)}")
    assert sum(counts[name] for name in outcomes) == requests, "a request has no outcome, or two"
    assert counts["answered"] > 0.7 * requests
    assert counts["unlucky"] + counts["gave up"] < 0.002 * requests
    for name in ("failed", "cancelled", "expired", "swaps", "raised", "out of memory", "short of rows"):
        assert counts[name] > 0, name
    await asyncio.sleep(1.6)  # threads that hung come back and end
    assert threading.active_count() <= before + 4, "threads were left behind"
