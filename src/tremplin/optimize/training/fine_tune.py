"""Full fine-tuning: encoder and head learn the task together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tremplin.errors import TrainingRefused
from tremplin.optimize.importing.sentence_modules import Normalize
from tremplin.optimize.network.network import Network, fresh_head
from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.training import lora
from tremplin.optimize.training.answers import accuracy, answer
from tremplin.optimize.training.batches import Numbers, padded
from tremplin.optimize.training.lesson import Lesson
from tremplin.optimize.training.loop import Schedule, Training, as_numbers, train
from tremplin.optimize.training.objectives import IGNORED, classification_loss
from tremplin.progress import Progress, silent
from tremplin.registry.task import Task


@dataclass(frozen=True)
class FineTuning:
    """How a classifier is fine-tuned."""

    schedule: Schedule = field(default_factory=Schedule)
    smoothing: float = 0.1
    """Share of each target that is spread over all labels."""
    balanced: bool = False
    """Weigh each label by the inverse of how often it comes."""
    lora_rank: int = 0
    """Rank of the corrections; 0 trains every weight."""
    lora_alpha: float = 16.0


def fine_tune(
    network: Network,
    lesson: Lesson,
    held_out: Lesson,
    labels: tuple[str, ...],
    options: FineTuning,
    *,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> tuple[Network, Training]:
    """Return a classifier of sentences after training on labelled rows, and its learning curve."""
    start = with_classifier(network, labels, seed=options.schedule.seed)
    module = TorchNetwork(start, dropout=options.schedule.dropout)
    if options.lora_rank:
        lora.adapt(module, rank=options.lora_rank, alpha=options.lora_alpha)
    targets = torch.from_numpy(lesson.targets)
    weights = label_weights(lesson.targets, len(labels)) if options.balanced else None

    def loss_of(numbers: Numbers) -> Tensor:
        logits = module(*padded(lesson.rows, numbers)).logits
        return classification_loss(
            logits, targets[torch.from_numpy(numbers)], smoothing=options.smoothing, class_weights=weights
        )

    def score() -> float:
        return accuracy(answer(module, held_out.rows).logits, held_out.targets)

    lengths = as_numbers([len(row) for row in lesson.rows])
    training = train(module, lengths, loss_of, score, options.schedule, checkpoint=checkpoint, progress=progress)
    lora.merge(module)
    return module.network(), training


def fine_tune_tokens(
    network: Network,
    lesson: TokenLesson,
    held_out: TokenLesson,
    labels: tuple[str, ...],
    options: FineTuning,
    *,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> tuple[Network, Training]:
    """Return a classifier of tokens, scored by the accuracy over the tokens that are judged."""
    head = fresh_head(network.hidden_size, len(labels), seed=options.schedule.seed)
    start = replace(network, steps=()).with_head(head, labels, Task.TOKEN_CLASSIFICATION)
    module = TorchNetwork(start, dropout=options.schedule.dropout)
    if options.lora_rank:
        lora.adapt(module, rank=options.lora_rank, alpha=options.lora_alpha)
    flat = np.concatenate([np.asarray(row, np.int64) for row in lesson.targets])
    weights = label_weights(flat[flat != IGNORED], len(labels)) if options.balanced else None

    def loss_of(numbers: Numbers) -> Tensor:
        logits = module(*padded(lesson.rows, numbers)).logits
        targets = _padded_targets(lesson, numbers, logits.shape[1])
        return classification_loss(
            logits.flatten(0, 1), targets.flatten(), smoothing=options.smoothing, class_weights=weights
        )

    def score() -> float:
        right = judged = 0
        for start_row in range(0, len(held_out.rows), 64):
            numbers = np.arange(start_row, min(start_row + 64, len(held_out.rows)))
            logits = module(*padded(held_out.rows, numbers)).logits
            targets = _padded_targets(held_out, numbers, logits.shape[1])
            is_judged = targets != IGNORED
            right += int(((logits.argmax(-1) == targets) & is_judged).sum())
            judged += int(is_judged.sum())
        return right / max(judged, 1)

    lengths = as_numbers([len(row) for row in lesson.rows])
    training = train(module, lengths, loss_of, score, options.schedule, checkpoint=checkpoint, progress=progress)
    lora.merge(module)
    return module.network(), training


@dataclass(frozen=True)
class TokenLesson:
    """Token rows with a target for each token."""

    rows: list[list[int]]
    targets: list[list[int]]
    """A label's number for each token, IGNORED for those that are not judged."""


def with_classifier(network: Network, labels: tuple[str, ...], *, seed: int) -> Network:
    """Return the network under a new head for these labels.

    Unit length is left out: a linear layer separates vectors better when they may be long.
    """
    if not network.steps:
        raise TrainingRefused("The encoder gives no sentence vector; fine-tune an embedding version.")
    steps = tuple(step for step in network.steps if not isinstance(step, Normalize))
    plain = replace(network, steps=steps, head=None)
    head = fresh_head(plain.embedding_dim, len(labels), seed=seed)
    return plain.with_head(head, labels, Task.CLASSIFICATION)


def label_weights(targets: NDArray[np.int64], labels: int) -> Tensor:
    """Return weights (labels,) inverse to how often each label comes, of mean 1 over the rows."""
    counts = np.bincount(targets, minlength=labels).astype(np.float64)
    weights = np.where(counts > 0, counts.sum() / np.maximum(counts, 1) / max((counts > 0).sum(), 1), 0.0)
    return torch.from_numpy(weights.astype(np.float32))


def _padded_targets(lesson: TokenLesson, numbers: Numbers, width: int) -> Tensor:
    targets = np.full((len(numbers), width), IGNORED, np.int64)
    for at, number in enumerate(numbers):
        row = lesson.targets[number]
        targets[at, : len(row)] = row
    return torch.from_numpy(targets)
