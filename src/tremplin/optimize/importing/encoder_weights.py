"""The weights of an encoder, read from a checkpoint under the names its family gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tremplin.errors import IncompleteSource
from tremplin.optimize.importing.families import FAMILIES, MPNET_BUCKETS, EncoderSpec, LayerNames
from tremplin.optimize.importing.weights import Floats, Weights

WORD_TABLE = "embeddings.word_embeddings.weight"

# Where language-model heads keep the word table they share, when only one copy was saved.
TIED_WORD_TABLES = (
    "cls.predictions.decoder.weight", "lm_head.decoder.weight", "vocab_projector.weight",
    "generator_lm_head.weight",
)  # fmt: skip

MPNET_MAX_DISTANCE = 128


@dataclass(frozen=True)
class Linear:
    """``x @ weight.T + bias``; weight (out, in), bias (out,), as torch stores them."""

    weight: Floats
    bias: Floats | None


@dataclass(frozen=True)
class Norm:
    """Layer normalisation; both (width,)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class LayerWeights:
    """One layer."""

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


@dataclass(frozen=True)
class EncoderWeights:
    """All weights of an encoder, float32."""

    word: Floats
    """(vocabulary, embedding)"""
    position: Floats
    """(positions, embedding)"""
    token_type: Floats | None
    """(token types, embedding)"""
    norm: Norm
    projection: Linear | None
    """Embedding to hidden width, ELECTRA only."""
    relative_bias: Floats | None
    """(buckets, heads), MPNet only."""
    layers: tuple[LayerWeights, ...]
    bigram: Floats | None = None
    """(rows, embedding), added to a token by the hash of it and the one before; only in some students."""


def read_encoder(spec: EncoderSpec, weights: Weights) -> EncoderWeights:
    """Return the encoder's weights; raises IncompleteSource when one is missing or has another shape."""
    family = FAMILIES[spec.family]
    prefix = find_prefix(spec.family, weights)
    width, hidden = spec.embedding_size, spec.hidden_size

    def table(name: str, rows: int, columns: int = width) -> Floats:
        return weights.read(f"{prefix}{name}", (rows, columns))

    is_projected = width != hidden
    return EncoderWeights(
        word=_word_table(spec, weights, prefix),
        position=table("embeddings.position_embeddings.weight", spec.position_rows),
        token_type=table("embeddings.token_type_embeddings.weight", spec.token_types)
        if spec.token_types
        else None,
        norm=read_norm(weights, f"{prefix}embeddings.LayerNorm", width),
        projection=read_linear(weights, f"{prefix}embeddings_project", hidden, width) if is_projected else None,
        relative_bias=table("encoder.relative_attention_bias.weight", spec.relative_buckets, spec.heads)
        if spec.relative_buckets
        else None,
        layers=tuple(
            _read_layer(spec, weights, f"{prefix}{family.layers_at}.{i}.", family.layer_names)
            for i in range(spec.layers)
        ),
    )


def _word_table(spec: EncoderSpec, weights: Weights, prefix: str) -> Floats:
    shape = (spec.vocab_size, spec.embedding_size)
    names = (prefix + WORD_TABLE, *TIED_WORD_TABLES)
    return weights.read(next((name for name in names if name in weights), names[0]), shape)


def find_prefix(family: str, weights: Weights) -> str:
    """Return what precedes ``embeddings.`` in the tensor names: ``bert.`` with a head, nothing without."""
    own = FAMILIES[family].prefix
    marker = "embeddings.LayerNorm."
    found = {name.partition(marker)[0] for name in weights.names if marker in name}
    return own if own in found or not found else min(found, key=len)


def read_linear(weights: Weights, name: str, outputs: int, inputs: int) -> Linear:
    """Return a linear layer with its bias, checked against (outputs, inputs)."""
    return Linear(weights.read(f"{name}.weight", (outputs, inputs)), weights.read(f"{name}.bias", (outputs,)))


def read_norm(weights: Weights, name: str, width: int) -> Norm:
    """Return a layer normalisation of this width."""
    return Norm(weights.read(f"{name}.weight", (width,)), weights.read(f"{name}.bias", (width,)))


def _read_layer(spec: EncoderSpec, weights: Weights, at: str, names: LayerNames) -> LayerWeights:
    hidden, wide = spec.hidden_size, spec.feed_forward_size
    return LayerWeights(
        query=read_linear(weights, at + names.query, hidden, hidden),
        key=read_linear(weights, at + names.key, hidden, hidden),
        value=read_linear(weights, at + names.value, hidden, hidden),
        attention_output=read_linear(weights, at + names.attention_output, hidden, hidden),
        attention_norm=read_norm(weights, at + names.attention_norm, hidden),
        up=read_linear(weights, at + names.up, wide, hidden),
        down=read_linear(weights, at + names.down, hidden, wide),
        output_norm=read_norm(weights, at + names.output_norm, hidden),
    )


def relative_bias_by_distance(bias: Floats, max_positions: int) -> Floats:
    """Return MPNet's attention bias for each distance key - query, from -(n-1) to n-1: (2n-1, heads) float32.

    Distances fall into buckets, exact up to 8 and logarithmic up to 128 on each side. The logarithm is taken
    in float32 as torch does: a bucket's edge would move otherwise.
    Source: Raffel et al. 2020 (T5), as in transformers' MPNetEncoder.relative_position_bucket.
    """
    if len(bias) < MPNET_BUCKETS:
        raise IncompleteSource(
            f"The relative attention bias has {len(bias)} rows, expected at least {MPNET_BUCKETS}."
        )
    distance = np.arange(-(max_positions - 1), max_positions)
    half, exact = MPNET_BUCKETS // 2, MPNET_BUCKETS // 4
    far = np.abs(distance)
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact), dtype=np.float32)
    scale = np.float32(np.log(MPNET_MAX_DISTANCE / exact))
    steps = (ratio / scale * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(far < exact, far, np.minimum(exact + steps, half - 1)) + half * (distance > 0)
    return np.ascontiguousarray(bias[bucket])
