"""Calibration: what flows into each matrix product, seen on real text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tremplin.optimize.passes.graph import linears, read_graph
from tremplin.serve.engine import pad
from tremplin.serve.engines.feeds import feeds_of

SAMPLE_TOKENS = 384


@dataclass(frozen=True)
class ChannelStatistics:
    """The range of each input channel of a matrix product, and a sample of its rows."""

    low: NDArray[np.float32]
    """(channels,)"""
    high: NDArray[np.float32]
    """(channels,)"""
    sample: NDArray[np.float32]
    """(tokens, channels), at most SAMPLE_TOKENS rows chosen at random over all the text."""


def collect_statistics(
    graph: Path, rows: Sequence[Sequence[int]], *, seed: int = 0, threads: int = 0
) -> Mapping[str, ChannelStatistics]:
    """Run the float graph over token rows and return the statistics by the product's input name.

    Padding is left out: it never reaches an answer, and its values would widen the ranges.
    """
    model = read_graph(graph)
    names = sorted({linear.input for linear in linears(model)})
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [node.name for node in session.get_inputs()]

    total = sum(map(len, rows))
    share = min(1.0, SAMPLE_TOKENS / max(total, 1))
    generator = np.random.default_rng(seed)
    low: dict[str, NDArray[np.float32]] = {}
    high: dict[str, NDArray[np.float32]] = {}
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for batch in _batches(rows):
        tokens = pad(batch)
        feeds = feeds_of(tokens, inputs)
        real = tokens.attention_mask.astype(bool)
        kept = generator.random(int(real.sum())) < share
        for name, array in zip(names, session.run(names, feeds), strict=True):
            # What comes after pooling has a row a text, not a token: every row of it is real.
            per_token = array.ndim == 3
            values = array[real] if per_token else array  # (tokens or texts, channels)
            low[name] = np.minimum(low[name], values.min(0)) if name in low else values.min(0)
            high[name] = np.maximum(high[name], values.max(0)) if name in high else values.max(0)
            samples[name].append(values[kept] if per_token else values)
    return {name: ChannelStatistics(low[name], high[name], np.concatenate(samples[name])) for name in names}


def _batches(rows: Sequence[Sequence[int]], size: int = 8) -> list[list[Sequence[int]]]:
    """Rows of near lengths together: the float graph is slow on padding too."""
    ordered = sorted(rows, key=len)
    return [list(ordered[start : start + size]) for start in range(0, len(ordered), size)]
