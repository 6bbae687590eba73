"""Writes an encoder as ONNX nodes, without torch.

Names are stable, so passes can find what they work on:

    embeddings.word.weight             (vocabulary, embedding), read by one Gather on input_ids, and again
                                       (transposed) by the head of a masked language model
    embeddings.position.weight         (positions, embedding), token type 0 added in when it is constant
    embeddings.token_type.weight       (types, embedding), only when token_type_ids is an input
    embeddings.bigram.weight           (rows, embedding), only in students trained with it
    embeddings.norm.{weight,bias}
    embeddings.projection.{weight,bias}            ELECTRA
    attention.relative_bias.weight     (2 n - 1, heads)  MPNet, one row per distance
    encoder.N.attention.qkv.{weight,bias}          (hidden, 3 hidden): queries (already scaled), keys, values
    encoder.N.attention.output.{weight,bias}
    encoder.N.attention.norm.{weight,bias}
    encoder.N.feed_forward.up.{weight,bias}
    encoder.N.feed_forward.down.{weight,bias}
    encoder.N.feed_forward.norm.{weight,bias}

Every linear layer is a MatMul by a (in, out) initializer followed by Add: what int8 quantizers look for.
Fused attention operators are left to engines: they made int8 slower at every batch above 1.

``token_type_ids`` becomes an input only when the answer can depend on it: the family's tokenizers mark the
second text of a pair (BERT, ELECTRA) and the task may be asked about pairs (classification, reranking, question
answering). Embeddings and token labels come from one text, whose types are all 0: type 0 is folded into the
position table, and requests carry one array less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tremplin.optimize.importing.encoder_weights import (
    EncoderWeights,
    LayerWeights,
    Linear,
    relative_bias_by_distance,
)
from tremplin.optimize.importing.families import EncoderSpec, Positions
from tremplin.optimize.importing.graph_writer import FLOAT, INT64, GraphWriter
from tremplin.registry.task import Task

MASKED = -1e9  # added to the score of a padded key; float32 keeps it far below any real score

WORD_TABLE = "embeddings.word.weight"

# Odd and not near a power of two: neighbours of one word spread over the rows.
BIGRAM_FACTOR = 1_000_003

PAIR_TASKS = (Task.CLASSIFICATION, Task.RERANKING, Task.QUESTION_ANSWERING)


def needs_token_type_ids(spec: EncoderSpec, task: Task) -> bool:
    """Return whether the graph of this encoder and task takes ``token_type_ids``."""
    return spec.token_types > 1 and spec.tokenizer_marks_second_text and task in PAIR_TASKS


def write_encoder(writer: GraphWriter, spec: EncoderSpec, weights: EncoderWeights, *, token_types: bool) -> str:
    """Write the encoder and return the name of its last hidden states, (batch, tokens, hidden) float32.

    Reads the graph inputs ``input_ids``, ``attention_mask`` and, with ``token_types``, ``token_type_ids``:
    int64 (batch, tokens), padded on the right.
    """
    hidden = _write_embeddings(writer, spec, weights, token_types)
    layers = LayerWriter(writer, spec, _write_attention_bias(writer, spec, weights))
    for index, layer in enumerate(weights.layers):
        hidden = layers.write(layer, f"encoder.{index}", hidden)
    return hidden


def _write_embeddings(writer: GraphWriter, spec: EncoderSpec, weights: EncoderWeights, token_types: bool) -> str:
    word = writer.node("Gather", [writer.weight(WORD_TABLE, weights.word), "input_ids"], "embeddings.word")
    table = weights.position
    if weights.token_type is not None and not token_types:
        table = table + weights.token_type[0]
    position = _write_positions(writer, spec, writer.weight("embeddings.position.weight", table))
    total = writer.node("Add", [word, position], "embeddings.sum")
    if weights.token_type is not None and token_types:
        types = writer.weight("embeddings.token_type.weight", weights.token_type)
        kind = writer.node("Gather", [types, "token_type_ids"], "embeddings.token_type")
        total = writer.node("Add", [total, kind], "embeddings.sum_with_type")
    if weights.bigram is not None:
        pair = _write_bigrams(
            writer, writer.weight("embeddings.bigram.weight", weights.bigram), len(weights.bigram)
        )
        total = writer.node("Add", [total, pair], "embeddings.sum_with_bigram")
    hidden = writer.layer_norm(total, "embeddings.norm", weights.norm, spec.layer_norm_eps)
    if weights.projection is not None:
        hidden = writer.linear(hidden, "embeddings.projection", weights.projection)
    return hidden


def _write_bigrams(writer: GraphWriter, table: str, rows: int) -> str:
    """Return a row for each token and the one before it, (batch, tokens, embedding).

    The row is ``(BIGRAM_FACTOR * before + id) mod rows``; before the first token stands id 0. Looking back only,
    a text's rows do not depend on its padding.
    """
    pads = writer.constant("int64_pad_one_before", np.array([0, 1, 0, -1], np.int64))
    zero = writer.constant("int64_scalar_0", np.array(0, np.int64))
    before = writer.node("Pad", ["input_ids", pads, zero], "bigram.before")
    factor = writer.constant("int64_scalar_bigram", np.array(BIGRAM_FACTOR, np.int64))
    mixed = writer.node("Mul", [before, factor], "bigram.mixed")
    sums = writer.node("Add", [mixed, "input_ids"], "bigram.sum")
    modulus = writer.constant("int64_scalar_bigram_rows", np.array(rows, np.int64))
    ids = writer.node("Mod", [sums, modulus], "bigram.ids")
    return writer.node("Gather", [table, ids], "embeddings.bigram")


def _write_positions(writer: GraphWriter, spec: EncoderSpec, table: str) -> str:
    """Return the position rows: (tokens, embedding) from zero, (batch, tokens, embedding) after padding."""
    if spec.positions is Positions.FROM_ZERO:
        length = writer.node("Shape", ["input_ids"], "positions.length", start=1, end=2)
        return writer.node("Slice", [table, writer.integers(0), length], "embeddings.position")
    # As transformers' create_position_ids_from_input_ids: rank among the ids that are not padding.
    padding = writer.integers(spec.padding_id)
    is_padding = writer.node("Equal", ["input_ids", padding], "positions.is_padding")
    is_token = writer.node(
        "Cast", [writer.node("Not", [is_padding], "positions.is_token")], "positions.ones", to=INT64
    )
    rank = writer.node("CumSum", [is_token, writer.constant("axis_1", np.array(1, np.int64))], "positions.rank")
    kept = writer.node("Mul", [rank, is_token], "positions.kept")
    ids = writer.node("Add", [kept, padding], "positions.ids")
    return writer.node("Gather", [table, ids], "embeddings.position")


def _write_attention_bias(writer: GraphWriter, spec: EncoderSpec, weights: EncoderWeights) -> str:
    """Return what is added to every score: (batch, 1, 1, tokens); MPNet: (batch, heads, tokens, tokens)."""
    mask = writer.node("Cast", ["attention_mask"], "attention.mask", to=FLOAT)
    inverted = writer.node("Sub", [writer.scalar("one", 1.0), mask], "attention.is_padding")
    scaled = writer.node("Mul", [inverted, writer.scalar("masked_score", MASKED)], "attention.padding_score")
    bias = writer.node("Unsqueeze", [scaled, writer.integers(1, 2)], "attention.bias")
    if weights.relative_bias is None:
        return bias
    longest = spec.max_positions
    by_distance = relative_bias_by_distance(weights.relative_bias, longest)
    table = writer.weight("attention.relative_bias.weight", by_distance)
    shape = writer.node("Shape", ["input_ids"], "relative.length_as_list", start=1, end=2)
    length = writer.node("Squeeze", [shape], "relative.length")
    zero, one = (writer.constant(f"int64_scalar_{n}", np.array(n, np.int64)) for n in (0, 1))
    ranks = writer.node("Range", [zero, length, one], "relative.ranks")
    keys = writer.node("Unsqueeze", [ranks, writer.integers(0)], "relative.keys")
    queries = writer.node("Unsqueeze", [ranks, writer.integers(1)], "relative.queries")
    distance = writer.node("Sub", [keys, queries], "relative.distance")
    offset = writer.constant("int64_scalar_longest", np.array(longest - 1, np.int64))
    rows = writer.node("Gather", [table, writer.node("Add", [distance, offset], "relative.row")], "relative.rows")
    by_head = writer.node("Transpose", [rows], "relative.by_head", perm=[2, 0, 1])  # (heads, queries, keys)
    return writer.node("Add", [bias, by_head], "attention.bias_with_distance")


@dataclass(frozen=True)
class LayerWriter:
    """Writes layers that share their shape and the bias on their scores."""

    writer: GraphWriter
    spec: EncoderSpec
    bias: str

    def write(self, layer: LayerWeights, name: str, hidden: str) -> str:
        """Write one layer and return its hidden states, (batch, tokens, hidden)."""
        writer, epsilon = self.writer, self.spec.layer_norm_eps
        context = self._write_attention(layer, f"{name}.attention", hidden)
        attended = writer.linear(context, f"{name}.attention.output", layer.attention_output)
        residual = writer.node("Add", [attended, hidden], f"{name}.attention.residual")
        hidden = writer.layer_norm(residual, f"{name}.attention.norm", layer.attention_norm, epsilon)

        wide = writer.linear(hidden, f"{name}.feed_forward.up", layer.up)
        active = writer.activation(wide, f"{name}.feed_forward.activation", self.spec.activation)
        narrow = writer.linear(active, f"{name}.feed_forward.down", layer.down)
        residual = writer.node("Add", [narrow, hidden], f"{name}.feed_forward.residual")
        return writer.layer_norm(residual, f"{name}.feed_forward.norm", layer.output_norm, epsilon)

    def _write_attention(self, layer: LayerWeights, name: str, hidden: str) -> str:
        """Return the context, (batch, tokens, hidden)."""
        writer, spec = self.writer, self.spec
        merged = writer.linear(hidden, f"{name}.qkv", _merge_qkv(layer, spec.head_size))
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        writer.split_node("Split", [merged], parts, axis=-1, num_outputs=3)
        heads_kept = len(layer.query.weight) // spec.head_size  # pruned layers have fewer than the spec
        by_head = writer.integers(0, 0, heads_kept, spec.head_size)
        heads = []
        # Keys come out transposed, (batch, heads, head, tokens), ready for the product with the queries.
        for part, order in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
            shaped = writer.node("Reshape", [part, by_head], f"{part}.shaped")
            heads.append(writer.node("Transpose", [shaped], f"{part}.heads", perm=order))
        query, key, value = heads
        scores = writer.node("MatMul", [query, key], f"{name}.scores")  # (batch, heads, tokens, tokens)
        masked = writer.node("Add", [scores, self.bias], f"{name}.masked_scores")
        weights = writer.node("Softmax", [masked], f"{name}.probabilities", axis=-1)
        mixed = writer.node("MatMul", [weights, value], f"{name}.mixed")
        back = writer.node("Transpose", [mixed], f"{name}.mixed_by_token", perm=[0, 2, 1, 3])
        return writer.node(
            "Reshape", [back, writer.integers(0, 0, heads_kept * spec.head_size)], f"{name}.context"
        )


def _merge_qkv(layer: LayerWeights, head_size: int) -> Linear:
    """One matrix for queries, keys and values; the 1/sqrt(head size) of the scores goes into the queries."""
    scale = np.float32(head_size**-0.5)
    parts = (layer.query, layer.key, layer.value)
    scales = (scale, np.float32(1), np.float32(1))
    weight = np.concatenate([part.weight * factor for part, factor in zip(parts, scales, strict=True)])
    biases = [part.bias * factor for part, factor in zip(parts, scales, strict=True) if part.bias is not None]
    return Linear(weight, np.concatenate(biases) if len(biases) == len(parts) else None)
