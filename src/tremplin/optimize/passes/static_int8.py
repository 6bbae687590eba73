"""Static int8: ranges are measured once, on calibration text, and written into the graph.

An answer then does not depend on its batch neighbours. Two things keep it accurate:

- *smoothing* (Xiao et al., SmoothQuant, 2023): the few large channels of a normalised activation are divided,
  and the rows of the weight multiplied, so that both fit eight bits. The residual connection of a post-norm
  encoder also reads the activation, so the division is a node of its own and is not folded into the norm;
- *outlier channels* (after Dettmers et al., LLM.int8(), 2022): the channels of a feed-forward layer that carry
  values a hundred times larger than the rest are computed in float, a strip of 32 columns out of 1536.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tremplin.errors import PassFailed
from tremplin.optimize.calibrate import ChannelStatistics
from tremplin.optimize.passes.graph import (
    Linear,
    PassResult,
    Rewriter,
    Weight,
    linears,
    quantize_columns,
    quantize_word_table,
    read_graph,
    word_table,
)

Channels = NDArray[np.float32]

# Exponents tried for the division; 0.5 is the paper's default, post-norm encoders want more.
SMOOTHING = (0.65, 0.8, 0.95)
# Shares of the observed range tried: cutting rare extremes gives the rest a finer step.
CLIPPING = (1.0, 0.9)


@dataclass(frozen=True)
class Plan:
    """How one matrix product will be quantized, and the error that was measured on the sample."""

    scale: np.float32
    zero_point: np.uint8
    divisor: Channels | None
    """(channels,) the activation is divided by, or None."""
    outliers: NDArray[np.int64]
    """Channels computed in float; empty for most products."""
    relative_error: float


class StaticInt8:
    """Weights int8 per column, activations uint8 with one fixed range per product.

    ``narrow`` keeps the weights so small that no product overflows on a CPU without VNNI.
    """

    def __init__(
        self,
        statistics: Mapping[str, ChannelStatistics],
        *,
        smooth: bool,
        outlier_channels: int,
        float_layers: int = 0,
        narrow: bool = False,
    ) -> None:
        self._statistics = statistics
        self._smooth = smooth
        self._outlier_channels = outlier_channels
        self._float_layers = float_layers
        self._narrow = narrow

    @property
    def name(self) -> str:
        """The pass with its options, as lineages and reports print it."""
        parts = ["static-int8"]
        if self._smooth:
            parts.append("smooth")
        if self._outlier_channels:
            parts.append(f"outliers{self._outlier_channels}")
        if self._float_layers:
            parts.append(f"float{self._float_layers}")
        if self._narrow:
            parts.append("narrow")
        return "+".join(parts)

    def call(self, source: Path, destination: Path) -> PassResult:
        """Write the quantized graph; raises PassFailed when the statistics are of another graph."""
        model = read_graph(source)
        found = linears(model)
        if not found:
            raise PassFailed("The graph has no float32 matrix product to quantize.")
        if missing := [linear.input for linear in found if linear.input not in self._statistics]:
            raise PassFailed(f"No calibration for {missing[0]}: the statistics are of another graph.")
        after_norm = _outputs_of(model, {"LayerNormalization"})
        after_activation = _outputs_of(model, {"Gelu", "Relu", "Mul"})
        plans = {
            linear.output: self._plan(
                linear,
                smooth=self._smooth and linear.input in after_norm,
                outliers=self._outlier_channels if linear.input in after_activation else 0,
            )
            for linear in found
        }
        kept = sorted(plans, key=lambda output: -plans[output].relative_error)[: self._float_layers]
        quantized = {linear.output: linear for linear in found if linear.output not in kept}
        table = word_table(model)
        rewriter = Rewriter(model)

        def replace(node: onnx.NodeProto) -> bool:
            if table is not None and node.output[0] == table[0].output[0]:
                quantize_word_table(rewriter, node, table[1])
                return True
            if node.output[0] not in quantized:
                return False
            _emit(rewriter, quantized[node.output[0]], plans[node.output[0]], narrow=self._narrow)
            return True

        rewriter.rewrite(replace)
        rewriter.save(destination)
        worst = max(plans[output].relative_error for output in quantized)
        note = f"largest relative error of a product: {worst:.3f}"
        return PassResult(self.name, len(quantized), (note,), narrow_weights=self._narrow)

    def _plan(self, linear: Linear, *, smooth: bool, outliers: int) -> Plan:
        """Choose the exponent and the clipping with the least error on the sample."""
        statistics = self._statistics[linear.input]
        weight, low, high = linear.weight.copy(), statistics.low.copy(), statistics.high.copy()
        sample = statistics.sample
        reach = np.maximum(np.abs(low), np.abs(high))
        chosen = _outlier_channels(reach, weight, outliers)
        if chosen.size:
            sample = sample.copy()
            sample[:, chosen] = 0
            weight[chosen] = low[chosen] = high[chosen] = reach[chosen] = 0
        exact = sample @ weight
        best: Plan | None = None
        for exponent in SMOOTHING if smooth else (None,):
            divisor = None if exponent is None else _divisor(reach, weight, exponent)
            by: Channels = np.ones_like(reach) if divisor is None else divisor
            columns, scales = quantize_columns(weight * by[:, None], narrow=self._narrow)
            rebuilt = columns * scales
            for share in CLIPPING:
                scale, zero = _range((low / by).min() * share, (high / by).max() * share)
                error = _fake_quantize(sample / by, scale, zero) @ rebuilt - exact
                relative = float(np.sqrt((error**2).mean() / max((exact**2).mean(), 1e-12)))
                if best is None or relative < best.relative_error:
                    best = Plan(scale, zero, divisor, chosen, relative)
        if best is None:
            raise PassFailed("No way to quantize was tried; this is a bug.")
        return best


def _emit(rewriter: Rewriter, linear: Linear, plan: Plan, *, narrow: bool) -> None:
    """Write the standard quantize / dequantize pattern, which every runtime turns into an int8 product."""
    x, name, out = linear.input, linear.weight_name, linear.output
    weight = linear.weight.copy()
    rewriter.drop_constant(name)
    target = out
    if plan.outliers.size:
        rewriter.constant(f"{name}.outliers", plan.outliers)
        rewriter.constant(f"{name}.float", weight[plan.outliers])
        strip = rewriter.node("Gather", [x, f"{name}.outliers"], f"{out}.strip", axis=-1)
        rewriter.node("MatMul", [strip, f"{name}.float"], f"{out}.float")
        weight[plan.outliers] = 0
        target = f"{out}.int8"
    if plan.divisor is not None:
        rewriter.constant(f"{name}.smoothing", (1 / plan.divisor).astype(np.float32))
        x = rewriter.node("Mul", [x, f"{name}.smoothing"], f"{out}.smooth")
        weight = weight * plan.divisor[:, None]
    columns, scales = quantize_columns(weight, narrow=narrow)
    rewriter.constant(f"{name}.x_scale", np.array(plan.scale))
    rewriter.constant(f"{name}.x_zero", np.array(plan.zero_point))
    rewriter.constant(f"{name}.int8", columns)
    rewriter.constant(f"{name}.scale", scales)
    rewriter.constant(f"{name}.zero", np.zeros(scales.shape, np.int8))
    activation = [f"{name}.x_scale", f"{name}.x_zero"]
    quantized = rewriter.node("QuantizeLinear", [x, *activation], f"{out}.u8")
    left = rewriter.node("DequantizeLinear", [quantized, *activation], f"{out}.x")
    right = rewriter.node(
        "DequantizeLinear", [f"{name}.int8", f"{name}.scale", f"{name}.zero"], f"{out}.w", axis=1
    )
    rewriter.node("MatMul", [left, right], target)
    if plan.outliers.size:
        rewriter.node("Add", [target, f"{out}.float"], out)


def _outputs_of(model: onnx.ModelProto, operators: set[str]) -> set[str]:
    return {node.output[0] for node in model.graph.node if node.op_type in operators}


def _outlier_channels(reach: Channels, weight: Weight, count: int) -> NDArray[np.int64]:
    """Return the channels that would cost most: those with large values that meet large weights."""
    if count <= 0 or count >= reach.size:
        return np.zeros(0, np.int64)
    cost = reach * np.linalg.norm(weight, axis=1)
    return np.sort(np.argsort(-cost, kind="stable")[:count]).astype(np.int64)


def _divisor(reach: Channels, weight: Weight, exponent: float) -> Channels:
    """Return SmoothQuant's channel scales, of geometric mean 1."""
    rows = np.abs(weight).max(axis=1) + 1e-6
    raw = (reach + 1e-6) ** exponent / rows ** (1 - exponent)
    centred: Channels = (raw / np.exp(np.log(raw).mean())).astype(np.float32)
    return centred


def _range(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of uint8 over [low, high], which must hold 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max(high - low, 1e-8) / 255)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def _fake_quantize(values: NDArray[np.float32], scale: np.float32, zero_point: np.uint8) -> NDArray[np.float32]:
    zero = np.float32(zero_point)
    rounded: NDArray[np.float32] = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    return rounded
