"""The network of a version: its weights and what they mean, without graph or framework.

    graph --from_graph--> Network --torch_network--> trained --network()--> Network --to_graph--> graph

Everything that changes weights or shapes (training, pruning, dropping layers, trimming the vocabulary) takes a
Network and returns one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from tremplin.optimize.importing.encoder_weights import EncoderWeights, LayerWeights, Linear, Norm
from tremplin.optimize.importing.families import EncoderSpec, Positions
from tremplin.optimize.importing.sentence_modules import Dense, EmbeddingStep, width_after
from tremplin.optimize.importing.weights import Floats
from tremplin.registry.task import Task


@dataclass(frozen=True)
class Head:
    """The last linear layer of a classifier: ``x @ weight + bias`` gives the logits."""

    weight: Floats
    """(width, labels)"""
    bias: Floats
    """(labels,)"""


@dataclass(frozen=True)
class Network:
    """An encoder with what follows it."""

    spec: EncoderSpec
    """Describes the encoder as it was imported; layers and widths are those of the weights."""
    weights: EncoderWeights
    steps: tuple[EmbeddingStep, ...] = ()
    """From token vectors to the sentence vector; empty for a classifier of tokens."""
    head: Head | None = None
    labels: tuple[str, ...] = ()
    task: Task = Task.EMBEDDING
    metadata: dict[str, str] = field(default_factory=dict)
    """What the graph says of itself."""

    @property
    def hidden_size(self) -> int:
        """Width of the token vectors."""
        return len(self.weights.norm.weight) if self.weights.projection is None else self.spec.hidden_size

    @property
    def embedding_dim(self) -> int:
        """Width of the sentence vector."""
        width = self.hidden_size
        for step in self.steps:
            width = width_after(step, width)
        return width

    @property
    def vocab_size(self) -> int:
        """Rows of the word table."""
        return len(self.weights.word)

    def position_rows(self, max_tokens: int) -> int:
        """Return how many rows of the position table texts of so many tokens read."""
        after_padding = self.spec.positions is Positions.AFTER_PADDING
        return max_tokens + (self.spec.padding_id + 1 if after_padding else 0)

    def heads_of(self, layer: LayerWeights) -> int:
        """Return the attention heads of a layer, fewer than the spec's after pruning."""
        return len(layer.query.weight) // self.spec.head_size

    @property
    def encoder_parameters(self) -> int:
        """Weights and biases of the layers, without the tables."""
        return sum(array.size for layer in self.weights.layers for array in arrays_of(layer))

    @property
    def shape(self) -> str:
        """The network in a few words, such as ``4 layers, 6 heads, 768 wide, 10000 words``."""
        layers = self.weights.layers
        heads = sorted({self.heads_of(layer) for layer in layers})
        wide = sorted({len(layer.up.weight) for layer in layers})
        parts = [f"{len(layers)} layers"]
        if layers:
            parts += [f"{_span(heads)} heads", f"feed-forward {_span(wide)}"]
        if self.weights.bigram is not None:
            parts.append(f"{len(self.weights.bigram)} bigram rows")
        return ", ".join([*parts, f"width {self.hidden_size}", f"{self.vocab_size} words"])

    def with_layers(self, layers: tuple[LayerWeights, ...]) -> Network:
        """Return this network with other layers."""
        return replace(self, weights=replace(self.weights, layers=layers))

    def with_head(self, head: Head | None, labels: tuple[str, ...], task: Task) -> Network:
        """Return this network under another head."""
        return replace(self, head=head, labels=labels, task=task)


def arrays_of(part: LayerWeights | Linear | Norm | Dense) -> Iterator[Floats]:
    """Yield every array of a part of a network."""
    match part:
        case Linear(weight, bias):
            yield weight
            if bias is not None:
                yield bias
        case Norm(weight, bias):
            yield weight
            yield bias
        case Dense(linear):
            yield from arrays_of(linear)
        case LayerWeights():
            for inner in (
                part.query, part.key, part.value, part.attention_output, part.attention_norm,
                part.up, part.down, part.output_norm,
            ):  # fmt: skip
                yield from arrays_of(inner)


def fresh_head(width: int, labels: int, *, seed: int) -> Head:
    """Return a head that knows nothing: small random weights, no bias."""
    random = np.random.default_rng([seed, 11])
    return Head(random.normal(0.0, 0.02, (width, labels)).astype(np.float32), np.zeros(labels, np.float32))


def _span(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"
