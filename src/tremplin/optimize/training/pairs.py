"""Embeddings that learn from pairs: a query and the passage that answers it, perhaps with one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tremplin.optimize.network.network import Network
from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.training.answers import answer
from tremplin.optimize.training.batches import Numbers, padded
from tremplin.optimize.training.loop import Schedule, Training, as_numbers, train
from tremplin.optimize.training.objectives import contrastive_loss, pair_similarity_loss
from tremplin.progress import Progress, silent


@dataclass(frozen=True)
class PairRows:
    """Pairs as token rows."""

    queries: Sequence[Sequence[int]]
    passages: Sequence[Sequence[int]]
    """The passage of each query."""
    negatives: Sequence[Sequence[int]] = ()
    """A passage that does not answer each query, when they are known."""


@dataclass(frozen=True)
class PairTraining:
    """How an encoder learns from pairs."""

    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=2, learning_rate=5e-5, batch_rows=32))
    scale: float = 20.0
    """Cosines are multiplied by it before the softmax."""


def train_on_pairs(
    network: Network,
    pairs: PairRows,
    held_out: PairRows,
    options: PairTraining,
    *,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> tuple[Network, Training]:
    """Return the encoder after learning that each query's passage is the nearest of its batch.

    Scored by the mean reciprocal rank of each held-out query's passage among all held-out passages.
    """
    module = TorchNetwork(network, dropout=options.schedule.dropout)

    def loss_of(numbers: Numbers) -> Tensor:
        queries = module(*padded(pairs.queries, numbers)).embedding
        passages = module(*padded(pairs.passages, numbers)).embedding
        if pairs.negatives:
            passages = torch.cat([passages, module(*padded(pairs.negatives, numbers)).embedding])
        return contrastive_loss(queries, passages, scale=options.scale)

    def score() -> float:
        queries = answer(module, held_out.queries).embeddings
        passages = answer(module, held_out.passages).embeddings
        similarity = queries @ passages.T
        own = np.diag(similarity)
        ranks = 1 + (similarity > own[:, None]).sum(axis=1)
        return float((1 / ranks).mean())

    lengths = as_numbers([len(q) + len(p) for q, p in zip(pairs.queries, pairs.passages, strict=True)])
    training = train(module, lengths, loss_of, score, options.schedule, checkpoint=checkpoint, progress=progress)
    return module.network(), training


@dataclass(frozen=True)
class FewShot:
    """How an encoder learns from a few labelled texts (SetFit: Tunstall et al. 2022)."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=1, learning_rate=2e-5, batch_rows=16, patience=0)
    )
    pairs_per_text: int = 20
    """Pairs of the same and of another label that each text takes part in."""


def train_few_shot(
    network: Network,
    rows: Sequence[Sequence[int]],
    targets: Numbers,
    options: FewShot,
    *,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> tuple[Network, Training]:
    """Return the encoder after learning which texts share a label; a head is fitted on it afterwards.

    There is nothing to spare for a held-out score: it is scored by how much nearer texts of one label are.
    """
    module = TorchNetwork(network, dropout=options.schedule.dropout)
    first, second, same = few_shot_pairs(targets, options.pairs_per_text, seed=options.schedule.seed)
    is_same = torch.from_numpy(same.astype(np.float32))

    def loss_of(numbers: Numbers) -> Tensor:
        left = module(*padded(rows, first[numbers])).embedding
        right = module(*padded(rows, second[numbers])).embedding
        return pair_similarity_loss(left, right, is_same[torch.from_numpy(numbers)])

    def score() -> float:
        vectors = answer(module, rows).embeddings
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        cosines = (unit[first] * unit[second]).sum(axis=1)
        return float(cosines[same].mean() - cosines[~same].mean())

    lengths = as_numbers([len(rows[a]) + len(rows[b]) for a, b in zip(first, second, strict=True)])
    training = train(module, lengths, loss_of, score, options.schedule, checkpoint=checkpoint, progress=progress)
    return module.network(), training


def few_shot_pairs(targets: Numbers, per_text: int, *, seed: int) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
    """Return pairs of texts (n,), (n,) and whether both carry one label (n,) bool, half of each kind."""
    random = np.random.default_rng([seed, 17])
    of_label = {int(label): np.flatnonzero(targets == label) for label in np.unique(targets)}
    first, second = [], []
    for number, label in enumerate(targets.tolist()):
        own = of_label[label][of_label[label] != number]
        others = np.flatnonzero(targets != label)
        for pool in (own, others):
            if len(pool):
                chosen = random.choice(pool, max(1, per_text // 2))
                first += [number] * len(chosen)
                second += chosen.tolist()
    left, right = np.array(first, np.int64), np.array(second, np.int64)
    return left, right, np.asarray(targets[left] == targets[right])
