"""The last touch to a classifier: its temperature and the threshold below which it abstains, on validation rows.

Both are chosen on the finished graph, quantized or not, since quantization moves probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tremplin.errors import PassFailed
from tremplin.optimize.head.abstain import abstain_threshold
from tremplin.optimize.head.calibrate import fit_temperature
from tremplin.optimize.head.logistic import softmax
from tremplin.optimize.passes.graph import read_graph
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.stage import Stage
from tremplin.optimize.run_graph import run_rows
from tremplin.registry.manifest import Interface
from tremplin.serve.engine import Engine
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

SCALED = ("head.weight", "head.weight.half", "head.bias")


@dataclass(frozen=True)
class Finished:
    """A graph ready to be judged and published."""

    graph: Path
    interface: Interface
    temperature: float


def finish_classifier(
    stage: Stage, corpus: Corpus, destination: Path, *, threads: int, target_accuracy: float
) -> Finished:
    """Write the stage's graph with its temperature folded into the head, and choose its threshold."""
    logits = answers_of(stage.graph, stage, corpus.validation.texts, "logits", threads=threads)
    targets = corpus.validation.targets(corpus.labels)
    temperature = fit_temperature(logits.astype(np.float64), targets)
    scale_head(stage.graph, destination, temperature)
    probabilities = softmax(logits.astype(np.float64) / temperature)
    threshold = abstain_threshold(
        probabilities.max(axis=1), probabilities.argmax(axis=1) == targets, target=target_accuracy
    )
    return Finished(destination, replace(stage.interface, abstain_below=threshold.value), temperature)


def scale_head(source: Path, destination: Path, temperature: float) -> None:
    """Divide a graph's logits by a temperature; its answers keep their order."""
    model = read_graph(source)
    found = 0
    for tensor in model.graph.initializer:
        if tensor.name in SCALED:
            values = numpy_helper.to_array(tensor)
            scaled = (values.astype(np.float64) / temperature).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
            found += 1
    if found != 2:
        raise PassFailed(f"{source.name} has no float head to calibrate: {found} of its two parts were found.")
    onnx.save(model, str(destination))


def answers_of(
    graph: Path, stage: Stage, texts: Sequence[str], output: str, *, threads: int
) -> NDArray[np.float32]:
    """Return one output of a graph for texts, in order."""
    rows = TextTokenizer(stage.tokenizer, stage.interface).encode(texts).ids
    with opened(graph, stage, threads) as engine:
        return np.stack(run_rows(engine, rows, output))


@contextmanager
def opened(graph: Path, stage: Stage, threads: int) -> Iterator[Engine]:
    """Open a stage's graph with the served engine, and close it."""
    engine = OnnxRuntimeEngine(graph, threads=threads, narrow_weights=stage.record.narrow_weights)
    engine.load()
    try:
        yield engine
    finally:
        engine.close()
