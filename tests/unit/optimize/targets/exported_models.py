"""Graphs of every kind that Tremplin writes, tiny, and versions of them to export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests import tiny_models
from tests.tiny_encoders import LABELS, write_tiny_encoder
from tests.unit.optimize.small_encoder import random_rows, write_small_encoder
from tremplin.optimize.calibrate import collect_statistics
from tremplin.optimize.network.from_graph import read_network
from tremplin.optimize.network.network import fresh_head
from tremplin.optimize.network.to_graph import write_network
from tremplin.optimize.passes.cascade import Cascade
from tremplin.optimize.passes.dynamic_int8 import DynamicInt8
from tremplin.optimize.passes.static_int8 import StaticInt8
from tremplin.optimize.passes.tables import SmallTables
from tremplin.optimize.targets.parity import FLOAT32, INT8, TargetParity, Tolerance, check_parity
from tremplin.optimize.targets.target import Target
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Interface, Manifest
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engine import TokenBatch, pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

VOCABULARY = 200
FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet")
Write = Callable[[Path], Path]


def encoder_of(family: str, activation: str = "gelu") -> Write:
    """Return what writes the embedding graph of a random encoder of a family."""
    return lambda path: write_tiny_encoder(path, family, vocab_size=VOCABULARY, activation=activation)


def classifier(path: Path) -> Path:
    """Write the graph of a random classifier that reads pairs."""
    return write_tiny_encoder(path, task=Task.CLASSIFICATION, vocab_size=VOCABULARY)


def static_int8(path: Path) -> Path:
    """Write a statically quantized encoder with smoothing and outlier channels."""
    source = write_small_encoder(path.with_name("float.onnx"))
    statistics = collect_statistics(source, random_rows(40), threads=1)
    StaticInt8(statistics, smooth=True, outlier_channels=4).call(source, path)
    return path


def dynamic_int8(path: Path) -> Path:
    """Write a dynamically quantized encoder."""
    DynamicInt8().call(write_small_encoder(path.with_name("float.onnx")), path)
    return path


def bigrams(path: Path) -> Path:
    """Write an encoder without layers that looks pairs of neighbours up."""
    plain = read_network(write_tiny_encoder(path.with_name("plain.onnx"), vocab_size=VOCABULARY))
    table = np.random.default_rng(0).normal(0, 1, (31, 32)).astype(np.float32)
    write_network(replace(plain.with_layers(()), weights=replace(plain.weights, layers=(), bigram=table)), path)
    return path


def small_tables(bits: int) -> Write:
    """Return what writes an encoder whose tables are kept in few bits."""

    def write(path: Path) -> Path:
        SmallTables(word_bits=bits).call(bigrams(path.with_name("bigrams.onnx")), path)
        return path

    return write


def cascade(path: Path) -> Path:
    """Write two classifiers in one graph; the second reads only the rows of which the first is unsure."""
    graphs = []
    for seed, layers in ((1, 1), (2, 2)):
        plain = read_network(write_tiny_encoder(path.with_name("plain.onnx"), vocab_size=VOCABULARY, seed=seed))
        network = plain.with_head(fresh_head(32, 3, seed=seed), LABELS, Task.CLASSIFICATION)
        graphs.append(path.with_name(f"{layers}.onnx"))
        write_network(network.with_layers(network.weights.layers[:layers]), graphs[-1])
    Cascade(graphs[0], threshold=0.36).call(graphs[1], path)
    return path


GRAPHS: dict[str, Write] = {
    **{family: encoder_of(family) for family in FAMILIES},
    "gelu_tanh": encoder_of("bert", "gelu_tanh"),
    "silu": encoder_of("bert", "silu"),
    "relu": encoder_of("bert", "relu"),
    "classifier": classifier,
    "static int8": static_int8,
    "dynamic int8": dynamic_int8,
    "bigrams": bigrams,
    "tables of 8 bits": small_tables(8),
    "tables of 4 bits": small_tables(4),
    "cascade": cascade,
}


def batches() -> list[TokenBatch]:
    """Return a token alone, a full row, and mixed lengths."""
    rows = [[7], random_rows(1)[0] * 2, *random_rows(19, seed=3)]
    return [pad([rows[0]]), pad([rows[1][:38]]), pad(rows[2:5]), pad(rows[5:])]


def parity_of(target: Target, graph: Path, folder: Path, tolerance: Tolerance = FLOAT32) -> TargetParity:
    """Write a graph for a target and compare the two."""
    target.check(graph)
    folder.mkdir()
    target.write(graph, folder)
    reference = OnnxRuntimeEngine(graph, threads=1)
    reference.load()
    return check_parity(
        target.open(folder),
        reference,
        batches(),
        runtime=target.runtime,
        texts="random tokens",
        tolerance=tolerance,
    )


def publish_encoder(registry: Registry, folder: Path, write: Write | None = None) -> Manifest:
    """Publish a tiny encoder; its tokenizer knows five words."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = (write or encoder_of("bert"))(folder / MODEL_FILE)
    return _publish(registry, graph, Interface(Task.EMBEDDING, tiny_models.MAX_TOKENS, VOCABULARY, 32))


def publish_classifier(registry: Registry, folder: Path) -> Manifest:
    """Publish a tiny classifier that takes token types."""
    folder.mkdir(parents=True, exist_ok=True)
    interface = Interface(
        Task.CLASSIFICATION, tiny_models.MAX_TOKENS, VOCABULARY, needs_token_type_ids=True, labels=LABELS
    )
    return _publish(registry, classifier(folder / MODEL_FILE), interface)


def _publish(registry: Registry, graph: Path, interface: Interface) -> Manifest:
    tokenizer = tiny_models.write_tokenizer(graph.with_name(TOKENIZER_FILE), pairs=True)
    manifest = tiny_models.manifest_of(interface.task.value, interface=interface)
    return registry.publish(manifest, {MODEL_FILE: graph, TOKENIZER_FILE: tokenizer})


def tolerance(kind: str) -> Tolerance:
    """Return what answers of one of GRAPHS may be off by."""
    return INT8 if "int8" in kind else FLOAT32
