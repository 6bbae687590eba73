"""Low-rank adaptation: the encoder stays as it is, each large matrix learns a correction of low rank.

Fewer numbers to train and to keep in the optimiser; afterwards the correction is added into the matrix, so the
served graph is none the slower. Source: Hu et al., LoRA, 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tremplin.optimize.network.torch_network import TorchNetwork


class LowRank(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """A linear layer that is frozen, and its correction."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.frozen = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(
            torch.zeros(linear.out_features, rank)
        )  # 0: training begins at the encoder as it is
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's answer with its correction."""
        return self.frozen(x) + (x @ self.down.T) @ self.up.T * self.scale

    def merged(self) -> nn.Linear:
        """Return one linear layer that answers the same."""
        with torch.no_grad():
            self.frozen.weight.add_(self.up @ self.down * self.scale)
        return self.frozen.requires_grad_(True)


def adapt(module: TorchNetwork, *, rank: int, alpha: float) -> None:
    """Freeze the encoder of a network and give each matrix of its layers a correction."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(("head.", "dense.")))
    for layer in module.layers:
        for name in ("qkv", "attention_output", "up", "down"):
            setattr(layer, name, LowRank(getattr(layer, name), rank, alpha))


def merge(module: TorchNetwork) -> None:
    """Add the corrections into the matrices."""
    for layer in module.layers:
        for name in ("qkv", "attention_output", "up", "down"):
            adapted = getattr(layer, name)
            if isinstance(adapted, LowRank):
                setattr(layer, name, adapted.merged())
