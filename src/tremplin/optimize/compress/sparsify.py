"""Unstructured magnitude pruning: the smallest weights become 0.

It makes a version no faster: ONNX Runtime and OpenVINO multiply zeros as they do any number. It makes the file
smaller once it is compressed, which is what ``compressed_bytes`` measures and the report says. Structured pruning
(``prune.py``) is what makes a version faster. Source: Zhu and Gupta 2017.
"""

from __future__ import annotations

import zlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tremplin.errors import PassFailed
from tremplin.optimize.importing.encoder_weights import LayerWeights, Linear
from tremplin.optimize.network.network import Network


def sparsify(network: Network, *, share: float) -> Network:
    """Return the network with this share of each layer's matrices set to 0, the smallest by magnitude.

    Raises PassFailed when the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise PassFailed(f"The share of weights to set to 0 must lie between 0 and 1, not {share:g}.")
    return network.with_layers(tuple(_sparse(layer, share) for layer in network.weights.layers))


def sparsity(network: Network) -> float:
    """Return the share of the layers' matrix weights that are 0."""
    weights = [
        part.weight
        for layer in network.weights.layers
        for part in (getattr(layer, field.name) for field in fields(layer))
        if isinstance(part, Linear)
    ]
    return float(sum((weight == 0).sum() for weight in weights) / max(1, sum(weight.size for weight in weights)))


def compressed_bytes(graph: Path) -> int:
    """Return the size of a file after DEFLATE, at the level a wheel or an image layer gets."""
    packer = zlib.compressobj(6)
    with graph.open("rb") as stream:
        size = sum(len(packer.compress(block)) for block in iter(lambda: stream.read(1 << 20), b""))
    return size + len(packer.flush())


def _sparse(layer: LayerWeights, share: float) -> LayerWeights:
    changed: dict[str, Any] = {}
    for field in fields(layer):
        part = getattr(layer, field.name)
        if isinstance(part, Linear):
            limit = np.quantile(np.abs(part.weight), share)
            changed[field.name] = Linear(np.where(np.abs(part.weight) <= limit, 0, part.weight), part.bias)
    return replace(layer, **changed)
