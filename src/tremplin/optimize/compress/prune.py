"""Structured pruning: heads and feed-forward neurons that matter least are cut out, so what is left is dense.

Every runtime is faster on smaller dense matrices; none here is on matrices with holes (see ``sparsify.py``).
Importance is the first-order estimate of how much the loss would change without a part: the gradient of a gate of
value 1 on it, by magnitude, averaged over batches. Sources: Michel, Levy and Neubig 2019 (heads); Molchanov et
al. 2019 (neurons).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tremplin.errors import PassFailed
from tremplin.optimize.importing.encoder_weights import LayerWeights, Linear
from tremplin.optimize.network.network import Network
from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.training.batches import Numbers

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """What each part of each layer is worth; higher is more."""

    heads: tuple[Scores, ...]
    """(heads,) by layer"""
    neurons: tuple[Scores, ...]
    """(feed-forward width,) by layer"""

    @property
    def layers(self) -> Scores:
        """What each layer's heads are worth together, (layers,)."""
        return np.array([scores.sum() for scores in self.heads])


def measure_importance(
    module: TorchNetwork, batches: Iterable[Numbers], loss_of: Callable[[Numbers], Tensor]
) -> Importance:
    """Return the importance of heads and neurons for a loss over some batches."""
    module.eval()
    for layer in module.layers:
        layer.head_gate = torch.ones(layer.heads, requires_grad=True)
        layer.neuron_gate = torch.ones(layer.up.out_features, requires_grad=True)
    gates = [gate for layer in module.layers for gate in (layer.head_gate, layer.neuron_gate)]
    sums = [torch.zeros_like(gate) for gate in gates]
    for numbers in batches:
        for total, gradient in zip(sums, torch.autograd.grad(loss_of(numbers), gates), strict=True):
            total.add_(gradient.abs() * len(numbers))
    for layer in module.layers:
        layer.head_gate = layer.neuron_gate = None
    found = [total.double().numpy() for total in sums]
    return Importance(tuple(found[0::2]), tuple(found[1::2]))


def cut(network: Network, importance: Importance, *, heads: float, neurons: float) -> Network:
    """Return the network with this share of the heads and of the neurons kept in each layer, the best ones.

    Raises PassFailed when a share is not above 0 and at most 1.
    """
    for name, share in (("heads", heads), ("neurons", neurons)):
        if not 0 < share <= 1:
            raise PassFailed(f"{name} to keep must be a share above 0 and at most 1, not {share:g}.")
    size = network.spec.head_size
    layers = []
    for layer, head_scores, neuron_scores in zip(
        network.weights.layers, importance.heads, importance.neurons, strict=True
    ):
        kept_heads = _best(head_scores, heads)
        channels = (kept_heads[:, None] * size + np.arange(size)).ravel()
        layers.append(_cut_layer(layer, channels, _best(neuron_scores, neurons)))
    return network.with_layers(tuple(layers))


def keep_layers(network: Network, kept: Sequence[int]) -> Network:
    """Return the network with some of its layers, in the order given.

    Raises PassFailed for a layer that is not there.
    """
    count = len(network.weights.layers)
    if missing := [index for index in kept if not 0 <= index < count]:
        raise PassFailed(f"There is no layer {missing[0]}: the network has layers 0 to {count - 1}.")
    return network.with_layers(tuple(network.weights.layers[index] for index in kept))


def spread_layers(count: int, wanted: int) -> tuple[int, ...]:
    """Return which of ``count`` layers to keep so that the kept ones are evenly apart, first and last included.

    >>> spread_layers(6, 4)
    (0, 2, 3, 5)
    >>> spread_layers(6, 1)
    (0,)
    """
    if not 0 <= wanted <= count:
        raise PassFailed(f"{wanted} layers cannot be chosen from {count}.")
    if wanted == 1:
        return (0,)
    return tuple(int(index) for index in np.round(np.linspace(0, count - 1, wanted) + 1e-9)) if wanted else ()


def _best(scores: Scores, share: float) -> NDArray[np.int64]:
    count = max(1, math.floor(share * len(scores) + 0.5))
    return np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.int64)


def _cut_layer(layer: LayerWeights, channels: NDArray[np.int64], neurons: NDArray[np.int64]) -> LayerWeights:
    return replace(
        layer,
        query=_rows(layer.query, channels),
        key=_rows(layer.key, channels),
        value=_rows(layer.value, channels),
        attention_output=_columns(layer.attention_output, channels),
        up=_rows(layer.up, neurons),
        down=_columns(layer.down, neurons),
    )


def _rows(linear: Linear, kept: NDArray[np.int64]) -> Linear:
    bias = None if linear.bias is None else linear.bias[kept]
    return Linear(np.ascontiguousarray(linear.weight[kept]), bias)


def _columns(linear: Linear, kept: NDArray[np.int64]) -> Linear:
    return Linear(np.ascontiguousarray(linear.weight[:, kept]), linear.bias)
