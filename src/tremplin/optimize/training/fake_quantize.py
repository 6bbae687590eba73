"""Training that feels int8: weights and activations are rounded in the forward pass, gradients pass through.

After it, post-training quantization finds weights that already live with the rounding. Source: Jacob et al. 2018;
gradients by the straight-through estimator (Bengio et al. 2013).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tremplin.optimize.network.torch_network import TorchNetwork

MOMENTUM = 0.95
"""Of the moving range of an activation."""


class QuantizedLinear(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """A linear layer whose input is rounded to uint8 and whose weight to int8 per output."""

    low: Tensor
    high: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @property
    def weight(self) -> Tensor:
        """The weight that is trained, not rounded."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias, which stays float."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's answer on rounded numbers."""
        if self.training:
            low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
            is_first = bool(self.high == self.low)
            keep = 0.0 if is_first else MOMENTUM
            self.low.mul_(keep).add_(low * (1 - keep))
            self.high.mul_(keep).add_(high * (1 - keep))
        step = ((self.high - self.low) / 255).clamp(min=1e-8)
        zero = torch.round(-self.low / step)
        rounded = (torch.clamp(torch.round(x / step) + zero, 0, 255) - zero) * step
        weight = self.linear.weight
        scale = weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        columns = torch.round(weight / scale) * scale
        return functional.linear(
            x + (rounded - x).detach(), weight + (columns - weight).detach(), self.linear.bias
        )


def quantize_in_training(module: TorchNetwork) -> None:
    """Make every matrix of the layers feel int8."""
    for layer in module.layers:
        for name in ("qkv", "attention_output", "up", "down"):
            setattr(layer, name, QuantizedLinear(getattr(layer, name)))
