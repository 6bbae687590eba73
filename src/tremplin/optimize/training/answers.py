"""What a torch network answers on many texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.training.batches import by_length, padded
from tremplin.progress import Progress, silent

Array = NDArray[np.float32]

BATCH_ROWS = 64


@dataclass(frozen=True)
class SentenceAnswers:
    """One row a text."""

    logits: Array
    """(n, labels); (n, 0) without a head."""
    embeddings: Array
    """(n, dim)"""


def answer(module: TorchNetwork, rows: Sequence[Sequence[int]], progress: Progress = silent) -> SentenceAnswers:
    """Return what a network of sentences gives for token rows, in order."""
    module.eval()
    logits: Array | None = None
    embeddings: Array | None = None
    done = 0
    with torch.no_grad():
        for numbers in by_length(rows, BATCH_ROWS):
            outputs = module(*padded(rows, numbers))
            if embeddings is None or logits is None:
                width = 0 if outputs.logits is None else outputs.logits.shape[-1]
                embeddings = np.empty((len(rows), outputs.embedding.shape[-1]), np.float32)
                logits = np.empty((len(rows), width), np.float32)
            embeddings[numbers] = outputs.embedding.numpy()
            if outputs.logits is not None:
                logits[numbers] = outputs.logits.numpy()
            done += len(numbers)
            progress("answer", done / len(rows))
    if embeddings is None or logits is None:
        raise ValueError("no rows to answer; this is a bug")
    return SentenceAnswers(logits, embeddings)


def accuracy(logits: Array, targets: NDArray[np.int64]) -> float:
    """Return the share of rows whose best label is the right one."""
    return float((logits.argmax(axis=1) == targets).mean())
