"""What heads and neurons of a stage's network are worth for its task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tremplin.optimize.compress.prune import Importance, measure_importance
from tremplin.optimize.network.network import Network
from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.training.batches import Numbers, by_length, padded
from tremplin.optimize.training.objectives import classification_loss
from tremplin.serve.tokenize import TextTokenizer

if TYPE_CHECKING:
    from tremplin.optimize.recipes.stage import Stage
    from tremplin.optimize.recipes.steps import Workshop


def importance_of(network: Network, stage: Stage, workshop: Workshop, rows: int) -> Importance:
    """Return the importance over training rows: for the labels, or for the vectors where there is no head."""
    corpus = workshop.corpus
    random = np.random.default_rng([workshop.seed, 23])
    chosen = random.choice(len(corpus.train), min(rows, len(corpus.train)), replace=False)
    texts = [corpus.train.texts[number] for number in chosen]
    ids = [list(row) for row in TextTokenizer(stage.tokenizer, stage.interface).encode(texts).ids]
    module = TorchNetwork(network)
    batches = by_length(ids, 64)
    if network.head is not None:
        targets = torch.from_numpy(corpus.train.targets(corpus.labels)[chosen])
        return measure_importance(module, batches, lambda n: _label_loss(module, ids, targets, n))
    return measure_importance(module, batches, lambda n: _vector_loss(module, ids, n))


def _label_loss(module: TorchNetwork, ids: Sequence[Sequence[int]], targets: Tensor, numbers: Numbers) -> Tensor:
    return classification_loss(module(*padded(ids, numbers)).logits, targets[torch.from_numpy(numbers)])


def _vector_loss(module: TorchNetwork, ids: Sequence[Sequence[int]], numbers: Numbers) -> Tensor:
    """How well texts tell themselves from the others of the batch: there is no label to ask for."""
    vectors = functional.normalize(module(*padded(ids, numbers)).embedding, dim=-1)
    return functional.cross_entropy(vectors @ vectors.detach().T * 20, torch.arange(len(numbers)))
