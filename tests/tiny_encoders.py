"""Encoders with random weights, small enough to make for each test, as the importer writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tremplin.optimize.importing import heads
from tremplin.optimize.importing.encoder_graph import needs_token_type_ids, write_encoder
from tremplin.optimize.importing.encoder_weights import EncoderWeights, LayerWeights, Linear, Norm
from tremplin.optimize.importing.families import FAMILIES, EncoderSpec, Positions
from tremplin.optimize.importing.graph_writer import GraphWriter, save_model
from tremplin.optimize.importing.sentence_modules import MEAN_AND_NORMALIZE
from tremplin.registry.task import Task

HIDDEN, WIDE, HEADS, LAYERS, POSITIONS = 32, 64, 4, 2, 40
LABELS = ("low", "middle", "high")


def write_tiny_encoder(
    path: Path,
    family: str = "bert",
    *,
    task: Task = Task.EMBEDDING,
    vocab_size: int = 9,
    activation: str = "gelu",
    epsilon: float = 1e-5,
    seed: int = 0,
) -> Path:
    """Write the graph of a random encoder of a family with the head of a task, ``path`` included."""
    spec = spec_of(family, vocab_size=vocab_size, activation=activation, epsilon=epsilon)
    generator = np.random.default_rng(seed)
    writer = GraphWriter()
    token_types = needs_token_type_ids(spec, task)
    hidden = write_encoder(writer, spec, random_weights(spec, generator), token_types=token_types)
    if task is Task.EMBEDDING:
        shapes = heads.write_embedding(writer, hidden, MEAN_AND_NORMALIZE, HIDDEN)
    else:
        zero = writer.constant("int64_scalar_0", np.array(0, np.int64))
        first = writer.node("Gather", [hidden, zero], "first_token", axis=1)
        raw = writer.linear(first, "classifier", _linear(generator, len(LABELS), HIDDEN))
        shapes = heads.write_answer(writer, raw, heads.Labels(LABELS), ["batch"])
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(writer.model(inputs, shapes, {}), path)
    return path


def spec_of(family: str, *, vocab_size: int, activation: str, epsilon: float) -> EncoderSpec:
    """Return a small encoder of a family; ELECTRA's embedding is half as wide as its layers."""
    known = FAMILIES[family]
    after_padding = known.positions is Positions.AFTER_PADDING
    return EncoderSpec(
        family=family,
        vocab_size=vocab_size,
        embedding_size=HIDDEN // 2 if family == "electra" else HIDDEN,
        hidden_size=HIDDEN,
        layers=LAYERS,
        heads=HEADS,
        feed_forward_size=WIDE,
        activation=activation,
        layer_norm_eps=epsilon,
        position_rows=POSITIONS,
        positions=known.positions,
        padding_id=1 if after_padding else 0,
        token_types=2 if known.has_token_types else 0,
        tokenizer_marks_second_text=known.tokenizer_marks_second_text,
        relative_buckets=32 if family == "mpnet" else 0,
    )


def random_weights(spec: EncoderSpec, generator: np.random.Generator) -> EncoderWeights:
    """Return weights of a size that real encoders have: products keep the variance, norms are near 1."""
    narrow, hidden, wide = spec.embedding_size, spec.hidden_size, spec.feed_forward_size

    def table(rows: int, width: int) -> np.ndarray:
        return generator.normal(0, 1, (rows, width)).astype(np.float32)

    def norm(width: int) -> Norm:
        gain = generator.normal(1, 0.2, width).astype(np.float32)
        return Norm(gain, generator.normal(0, 0.2, width).astype(np.float32))

    layers = tuple(
        LayerWeights(
            query=_linear(generator, hidden, hidden),
            key=_linear(generator, hidden, hidden),
            value=_linear(generator, hidden, hidden),
            attention_output=_linear(generator, hidden, hidden),
            attention_norm=norm(hidden),
            up=_linear(generator, wide, hidden),
            down=_linear(generator, hidden, wide),
            output_norm=norm(hidden),
        )
        for _ in range(spec.layers)
    )
    return EncoderWeights(
        word=table(spec.vocab_size, narrow),
        position=table(spec.position_rows, narrow),
        token_type=table(spec.token_types, narrow) if spec.token_types else None,
        norm=norm(narrow),
        projection=_linear(generator, hidden, narrow) if narrow != hidden else None,
        relative_bias=table(spec.relative_buckets, spec.heads) if spec.relative_buckets else None,
        layers=layers,
    )


def _linear(generator: np.random.Generator, outputs: int, inputs: int) -> Linear:
    weight = generator.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
    return Linear(weight, generator.normal(0, 0.2, outputs).astype(np.float32))
