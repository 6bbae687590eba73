"""Which examples are taught together, and how they are padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.int64]

POOL_BATCHES = 32
"""Rows are shuffled, then sorted by length inside pools of so many batches: little padding, yet random batches."""


def epoch_batches(lengths: Numbers, batch_rows: int, *, seed: int, epoch: int) -> list[Numbers]:
    """Return the batches of one epoch as row numbers; every row comes once.

    ``lengths`` are tokens by row, (n,). The same seed and epoch give the same batches, which is what lets a run
    be continued in the middle of an epoch.
    """
    random = np.random.default_rng([seed, epoch, 5])
    order = random.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), POOL_BATCHES * batch_rows):
        pool = order[start : start + POOL_BATCHES * batch_rows]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_rows] for at in range(0, len(pool), batch_rows)]
    return [batches[number] for number in random.permutation(len(batches))]


def padded(rows: Sequence[Sequence[int]], numbers: Sequence[int] | Numbers) -> tuple[Tensor, Tensor]:
    """Return ids and mask of some rows, int64 (batch, tokens), padded with 0 on the right."""
    chosen = [rows[number] for number in numbers]
    width = max(map(len, chosen))
    ids = np.zeros((len(chosen), width), np.int64)
    mask = np.zeros((len(chosen), width), np.int64)
    for at, row in enumerate(chosen):
        ids[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def by_length(rows: Sequence[Sequence[int]], batch_rows: int) -> list[Numbers]:
    """Return batches of near lengths that cover all rows, for a pass that does not train."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    return [order[start : start + batch_rows] for start in range(0, len(order), batch_rows)]
