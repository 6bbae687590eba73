"""Distillation: a smaller network learns to answer as a larger one.

The teacher's logits and sentence vectors are computed once for every text. Token states and attention, when asked
for, are computed in the step, since they are too large to keep; both networks must then read the same pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tremplin.errors import PassFailed
from tremplin.optimize.network.network import Network
from tremplin.optimize.network.torch_network import Outputs, TorchNetwork
from tremplin.optimize.training.answers import SentenceAnswers, accuracy, answer
from tremplin.optimize.training.batches import Numbers, padded
from tremplin.optimize.training.fake_quantize import quantize_in_training
from tremplin.optimize.training.lesson import Lesson
from tremplin.optimize.training.loop import Schedule, Training, as_numbers, train
from tremplin.optimize.training.objectives import (
    IGNORED,
    attention_loss,
    classification_loss,
    imitation_loss,
    token_states_loss,
)
from tremplin.progress import Progress, silent


@dataclass(frozen=True)
class Distillation:
    """How a student is taught."""

    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=6, learning_rate=5e-4, dropout=0.0))
    temperature: float = 2.0
    logits_weight: float = 1.0
    embedding_weight: float = 10.0
    """Of the mean squared difference of sentence vectors."""
    label_weight: float = 0.3
    """Of the right labels, where they are known."""
    states_weight: float = 0.0
    """Of token states, layer by layer."""
    attention_weight: float = 0.0
    """Of the last layer's attention."""
    quantization_aware: bool = False


def teach(
    student: Network,
    lesson: Lesson,
    teacher: SentenceAnswers,
    held_out: Lesson,
    held_out_teacher: SentenceAnswers,
    options: Distillation,
    *,
    deep_teacher: tuple[Network, Sequence[Sequence[int]]] | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> tuple[Network, Training]:
    """Return the student after learning from the teacher's answers, and its learning curve.

    ``deep_teacher`` is the teacher itself with its own rows of the texts, needed for token states and attention.
    Scored by accuracy on the held-out rows, by agreement with the teacher where no label is known, by the mean
    cosine with the teacher's vectors when there is no head.
    """
    module = TorchNetwork(student, dropout=options.schedule.dropout)
    if options.quantization_aware:
        quantize_in_training(module)
    goal = _Goal(module, lesson, teacher, options, deep_teacher)
    examiner = _Examiner(module, held_out, held_out_teacher)
    trainable = nn.ModuleList([module, goal.projection]) if goal.projection is not None else module
    lengths = as_numbers([len(row) for row in lesson.rows])
    training = train(
        trainable, lengths, goal.loss, examiner.score, options.schedule, checkpoint=checkpoint, progress=progress
    )
    return module.network(), training


class _Goal:
    """The loss of a batch."""

    def __init__(
        self,
        module: TorchNetwork,
        lesson: Lesson,
        teacher: SentenceAnswers,
        options: Distillation,
        deep_teacher: tuple[Network, Sequence[Sequence[int]]] | None,
    ) -> None:
        self._module, self._lesson, self._options = module, lesson, options
        self._logits = torch.from_numpy(teacher.logits)
        self._embeddings = torch.from_numpy(teacher.embeddings)
        self._targets = torch.from_numpy(lesson.targets)
        self._deep: TorchNetwork | None = None
        width, wanted = module.network().embedding_dim, teacher.embeddings.shape[1]
        # A narrower student is compared through a layer that is thrown away afterwards.
        self.projection = nn.Linear(width, wanted, bias=False) if width != wanted else None
        if options.states_weight or options.attention_weight:
            if deep_teacher is None or list(map(len, deep_teacher[1])) != list(map(len, lesson.rows)):
                raise PassFailed(
                    "Token states and attention can only be taught to a student that reads the same pieces as its "
                    "teacher: distil before trim-vocabulary, or set their weights to 0."
                )
            self._deep = TorchNetwork(deep_teacher[0]).eval().requires_grad_(False)
            self._pairs = list(
                zip(
                    range(len(module.layers) + 1),
                    (0, *(1 + n for n in _aligned(len(self._deep.layers), len(module.layers)))),
                    strict=True,
                )
            )

    def loss(self, numbers: Numbers) -> Tensor:
        options = self._options
        ids, mask = padded(self._lesson.rows, numbers)
        outputs = self._module(ids, mask, with_attention=bool(options.attention_weight))
        chosen = torch.from_numpy(numbers)
        total = torch.zeros(())
        if outputs.logits is not None and options.logits_weight:
            soft = imitation_loss(outputs.logits, self._logits[chosen], temperature=options.temperature)
            total = total + options.logits_weight * soft
        if options.embedding_weight:
            total = total + options.embedding_weight * self._vector_loss(outputs.embedding, chosen)
        targets = self._targets[chosen]
        if outputs.logits is not None and options.label_weight and bool((targets != IGNORED).any()):
            total = total + options.label_weight * classification_loss(outputs.logits, targets)
        if self._deep is not None:
            total = total + self._deep_loss(self._deep, outputs, ids, mask)
        return total

    def _vector_loss(self, embedding: Tensor, chosen: Tensor) -> Tensor:
        mine = self.projection(embedding) if self.projection is not None else embedding
        return functional.mse_loss(mine, self._embeddings[chosen]) * (
            # Unit vectors differ by 1/dim a component: by the sum, the weight means the same for both kinds.
            1.0 if self._logits.shape[1] else mine.shape[-1]
        )

    def _deep_loss(self, deep: TorchNetwork, outputs: Outputs, ids: Tensor, mask: Tensor) -> Tensor:
        options = self._options
        with torch.no_grad():
            shown = deep(ids, mask, with_attention=bool(options.attention_weight))
        total = torch.zeros(())
        if options.states_weight:
            losses = [
                token_states_loss(outputs.hidden[mine], shown.hidden[theirs], mask) for mine, theirs in self._pairs
            ]
            total = total + options.states_weight * torch.stack(losses).mean()
        if options.attention_weight:
            last = attention_loss(outputs.attention[-1], shown.attention[-1], mask)
            total = total + options.attention_weight * last
        return total


class _Examiner:
    """The score on held-out rows."""

    def __init__(self, module: TorchNetwork, held_out: Lesson, teacher: SentenceAnswers) -> None:
        self._module, self._held_out, self._teacher = module, held_out, teacher

    def score(self) -> float:
        found = answer(self._module, self._held_out.rows)
        if found.logits.shape[1]:
            known = self._held_out.targets != IGNORED
            if known.any():
                return accuracy(found.logits[known], self._held_out.targets[known])
            return accuracy(found.logits, self._teacher.logits.argmax(axis=1))
        if found.embeddings.shape != self._teacher.embeddings.shape:
            return _similarity_agreement(found.embeddings, self._teacher.embeddings)
        cosines = _unit(found.embeddings) * _unit(self._teacher.embeddings)
        return float(cosines.sum(axis=1).mean())


def _aligned(theirs: int, mine: int) -> list[int]:
    """Return which of the teacher's layers each of the student's is compared with; the last with the last."""
    return [round((index + 1) * theirs / mine) - 1 for index in range(mine)] if mine else []


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
    return unit


def _similarity_agreement(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Correlation of all cosines between texts, for vectors of different width."""
    a, b = _unit(mine), _unit(theirs)
    upper = np.triu_indices(len(a), 1)
    return float(np.corrcoef((a @ a.T)[upper], (b @ b.T)[upper])[0, 1])
