"""An engine whose answers say whose they are: each row is answered with its first token and its length."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from tremplin.registry.passport import BatchCosts
from tremplin.serve.costs import CostModel
from tremplin.serve.engine import Outputs, TokenBatch

PATIENCE_S = 30.0

# A token is what work is counted in; a batch costs as much as eight tokens more.
COSTS = BatchCosts(batch_s=8e-5, row_s=0.0, token_s=1e-5, pair_s=0.0)


def costs() -> CostModel:
    return CostModel(COSTS)


class EchoEngine:
    """Runs on any thread; ``gate`` holds it up, ``spoil`` may raise or change what it answers."""

    name = "echo 1.0"
    outputs: ClassVar[tuple[str, ...]] = ("first", "length")

    def __init__(self, spoil: Callable[[TokenBatch], Outputs | None] = lambda batch: None) -> None:
        self.spoil = spoil
        self.batches: list[TokenBatch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.loads = self.closes = 0
        self._lock = threading.Lock()

    def load(self) -> None:
        self.loads += 1

    def warm_up(self) -> None: ...

    def run(self, batch: TokenBatch) -> Outputs:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        with self._lock:
            self.batches.append(batch)
        spoilt = self.spoil(batch)
        return echo(batch) if spoilt is None else spoilt

    def health(self) -> bool:
        return True

    def close(self) -> None:
        self.closes += 1


def echo(batch: TokenBatch) -> Outputs:
    return {
        "first": batch.input_ids[:, 0].astype(np.float32),
        "length": batch.attention_mask.sum(axis=1).astype(np.float32),
    }
