"""Models small enough to make for each test: a table of nine tokens, vectors of four numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from tremplin.machine import Machine, read_machine
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Interface, Manifest, Origin
from tremplin.registry.passport import BatchCosts, Bound, Metric, Quality, Speed, Throughput
from tremplin.registry.store import Registry
from tremplin.registry.task import Task

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
VOCABULARY = {word: index for index, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
LABELS = ("low", "middle", "high")
DIM = 4
MAX_TOKENS = 16

EMBEDDING = Interface(Task.EMBEDDING, MAX_TOKENS, len(VOCABULARY), embedding_dim=DIM)
CLASSIFICATION = Interface(Task.CLASSIFICATION, MAX_TOKENS, len(VOCABULARY), labels=LABELS, abstain_below=0.4)
PROVEN = Quality(
    reference="itself",
    data="nine tokens",
    data_sha256="0" * 64,
    seed=0,
    metrics=(Metric("cosine_mean", 1.0, 1.0, 1.0, 9),),
    bounds=(Bound("cosine_mean", at_least=0.99),),
)
BROKEN = replace(PROVEN, metrics=(Metric("cosine_mean", 0.95, 0.94, 0.96, 9),))


def write_tokenizer(path: Path, *, extra_words: Sequence[str] = (), pairs: bool = False) -> Path:
    """Write a tokenizer of five words (and ``extra_words``) that frames texts or pairs as a BERT does."""
    vocabulary = VOCABULARY | {word: len(VOCABULARY) + i for i, word in enumerate(extra_words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    frame = [("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1" if pairs else None, special_tokens=frame
    )
    tokenizer.save(str(path))
    return path


def write_encoder(path: Path, *, seed: int = 0) -> Path:
    """Write a graph that averages the tokens' vectors, made from ``seed``, and gives the average unit length."""
    nodes = [*_pooling(), helper.make_node("LpNormalization", ["pooled"], ["embedding"], axis=1, p=2)]
    return _write(path, nodes, "embedding", DIM, seed)


def write_classifier(path: Path) -> Path:
    """Write a graph that averages the tokens' vectors and classifies the average."""
    nodes = [
        *_pooling(),
        helper.make_node("MatMul", ["pooled", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return _write(path, nodes, "probabilities", len(LABELS))


def publish(
    registry: Registry,
    folder: Path,
    model: str = "tiny",
    version: str = "1-fp32",
    *,
    interface: Interface = EMBEDDING,
    quality: Quality = PROVEN,
    machine: Machine | None = None,
) -> Manifest:
    """Publish a tiny model with evidence of speed for this machine, so that nothing has to be measured."""
    folder.mkdir(parents=True, exist_ok=True)
    write = write_encoder if interface.task is Task.EMBEDDING else write_classifier
    files = {
        MODEL_FILE: write(folder / MODEL_FILE),
        TOKENIZER_FILE: write_tokenizer(folder / TOKENIZER_FILE),
    }
    manifest = registry.publish(manifest_of(model, version, interface=interface, quality=quality), files)
    registry.record_speed(manifest, speed_on(machine or read_machine()))
    return manifest


def manifest_of(
    model: str = "tiny",
    version: str = "1-fp32",
    *,
    interface: Interface = EMBEDDING,
    quality: Quality = PROVEN,
) -> Manifest:
    """Return a manifest that is not published yet."""
    precision = version.partition("-")[2] or "fp32"
    return Manifest(model, version, precision, interface, Origin("made by hand", "table"), (), quality)


def speed_on(machine: Machine, threads: int = 1) -> Speed:
    """Return evidence of speed as quick as a table look-up is."""
    return Speed(
        machine=machine,
        engine="onnxruntime",
        threads=threads,
        measured_at="2026-01-01T00:00:00+00:00",
        rounds=1,
        load_ms=1.0,
        peak_memory_bytes=1,
        p50_ms=0.1,
        p99_ms=0.2,
        latency_tokens=4,
        latency_n=1,
        throughput=(Throughput(16, 16, 1e5, 1e5, 1e5),),
        costs=BatchCosts(1e-4, 1e-6, 1e-6, 0.0),
    )


def _pooling() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
        helper.make_node("Mul", ["vectors", "wide_mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens_axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "tokens_axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["pooled"]),
    ]


def _write(path: Path, nodes: list[onnx.NodeProto], output: str, width: int, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(len(VOCABULARY), DIM)).astype(np.float32)
    weights = generator.normal(size=(DIM, len(LABELS))).astype(np.float32)
    constants = {"table": table, "last": np.array([2]), "tokens_axis": np.array([1])}
    if output == "probabilities":
        constants["weights"] = weights
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", width])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
