"""Writes what follows the encoder, so that the graph holds everything after tokenization.

Outputs by task, all float32:

    embedding            embedding      (batch, dimensions)
      when asked for     token_embeddings (batch, tokens, hidden)  the last hidden states
    sparse-embedding     sparse_embedding (batch, vocabulary)  0 or above, nearly all of them 0
    classification       logits         (batch, labels)
                         probabilities  (batch, labels)  softmax, or sigmoid when labels are independent
      a regression       scores         (batch, labels)  raw, nothing after the last linear layer
    reranking            scores         (batch, 1)  raw as well
    token-classification logits, probabilities (batch, tokens, labels)
    question-answering   start_logits, end_logits (batch, tokens)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tremplin.errors import IncompleteSource, UnsupportedModel
from tremplin.optimize.importing.checkpoint import Checkpoint, Config
from tremplin.optimize.importing.encoder_weights import find_prefix, read_linear
from tremplin.optimize.importing.families import EncoderSpec
from tremplin.optimize.importing.graph_writer import BOOL, FLOAT, GraphWriter
from tremplin.optimize.importing.language_model_head import LanguageModelHead
from tremplin.optimize.importing.sentence_modules import (
    Dense,
    EmbeddingStep,
    Normalize,
    Pooling,
    SpladePooling,
    width_after,
)
from tremplin.optimize.importing.weights import Weights
from tremplin.registry.task import Task
from tremplin.serve.engine import TOKEN_EMBEDDINGS

Shapes = dict[str, list[str | int]]

MIN_COUNT = 1e-9  # sentence-transformers' guard against a text without tokens
MIN_NORM = 1e-12  # torch.nn.functional.normalize


@dataclass(frozen=True)
class Labels:
    """What a classifier distinguishes."""

    names: tuple[str, ...]
    """In index order."""
    multi_label: bool = False
    """Whether a text may carry several labels at once: sigmoid instead of softmax."""
    is_regression: bool = False
    """Whether the outputs are quantities and not classes."""


NO_LABELS = Labels(())


@dataclass(frozen=True)
class ClassifierLayers:
    """The layers of a sequence classifier, between the first token's vector and the logits."""

    first: str
    activation: str
    last: str
    first_is_pooler: bool = False
    """BERT keeps its first layer inside the encoder's prefix."""


CLASSIFIERS: Mapping[str, ClassifierLayers] = {
    "bert": ClassifierLayers("pooler.dense", "tanh", "classifier", first_is_pooler=True),
    "distilbert": ClassifierLayers("pre_classifier", "relu", "classifier"),
    "roberta": ClassifierLayers("classifier.dense", "tanh", "classifier.out_proj"),
    "xlm-roberta": ClassifierLayers("classifier.dense", "tanh", "classifier.out_proj"),
    "camembert": ClassifierLayers("classifier.dense", "tanh", "classifier.out_proj"),
    "electra": ClassifierLayers("classifier.dense", "gelu", "classifier.out_proj"),
    "mpnet": ClassifierLayers("classifier.dense", "tanh", "classifier.out_proj"),
}


def read_labels(checkpoint: Checkpoint, task: Task) -> Labels:
    """Return the labels of a classifier as its configuration names them, NO_LABELS for other tasks.

    Raises IncompleteSource when id2label does not number them 0, 1, 2, ... or two have one name, UnsupportedModel
    when a cross-encoder would give more than one score.
    """
    if task not in (Task.CLASSIFICATION, Task.RERANKING, Task.TOKEN_CLASSIFICATION):
        return NO_LABELS
    config = checkpoint.config
    names = _label_names(config)
    if task is Task.RERANKING:
        if len(names) != 1:
            raise UnsupportedModel(
                f"{config.path} has {len(names)} labels, and a cross-encoder gives one score for a pair. "
                "Import it with --task classification."
            )
        return Labels(names, is_regression=True)
    problem = config.text("problem_type", default="")
    is_sequence = task is Task.CLASSIFICATION
    # transformers takes a single output for a regression unless problem_type says otherwise.
    is_regression = is_sequence and (problem == "regression" or (not problem and len(names) == 1))
    return Labels(names, is_sequence and problem == "multi_label_classification", is_regression)


def _label_names(config: Config) -> tuple[str, ...]:
    stored = config.get("id2label")
    if stored is None:
        count = config.integer("num_labels", default=2)
        return tuple(f"LABEL_{index}" for index in range(count))
    if not isinstance(stored, Mapping):
        raise IncompleteSource(f"{config.path}: id2label is not an object.")
    try:
        by_index = {int(index): str(name) for index, name in stored.items()}
    except ValueError as error:
        raise IncompleteSource(f"{config.path}: id2label has a key that is not a number.") from error
    if sorted(by_index) != list(range(len(by_index))):
        raise IncompleteSource(f"{config.path}: id2label numbers its labels {sorted(by_index)}, not 0, 1, 2, ...")
    names = tuple(by_index[index] for index in range(len(by_index)))
    if len(set(names)) != len(names):
        raise IncompleteSource(f"{config.path}: two labels of id2label have the same name.")
    return names


def write_embedding(
    writer: GraphWriter,
    hidden: str,
    steps: tuple[EmbeddingStep, ...],
    hidden_size: int,
    *,
    token_embeddings: bool = False,
) -> Shapes:
    """Write pooling, dense layers and normalisation; ``hidden`` is (batch, tokens, hidden).

    With ``token_embeddings`` the hidden states are an output as well.
    """
    x, width = hidden, hidden_size
    for index, step in enumerate(steps):
        name = f"sentence.{index}"
        match step:
            case Pooling(modes):
                x = _write_pooling(writer, x, modes, name)
            case Dense(linear, activation):
                x = writer.activation(writer.linear(x, f"{name}.dense", linear), f"{name}.activation", activation)
            case Normalize():
                norm = writer.node("ReduceL2", [x, writer.integers(1)], f"{name}.norm", keepdims=1)
                safe = writer.node("Max", [norm, writer.scalar("min_norm", MIN_NORM)], f"{name}.safe_norm")
                x = writer.node("Div", [x, safe], f"{name}.normalized")
        width = width_after(step, width)
    writer.node("Identity", [x], "embedding")
    shapes: Shapes = {"embedding": ["batch", width]}
    if token_embeddings:
        writer.node("Identity", [hidden], TOKEN_EMBEDDINGS)
        shapes[TOKEN_EMBEDDINGS] = ["batch", "tokens", hidden_size]
    return shapes


def _write_pooling(writer: GraphWriter, hidden: str, modes: tuple[str, ...], name: str) -> str:
    pooled = [_write_mode(writer, hidden, mode, f"{name}.{mode}") for mode in modes]
    return pooled[0] if len(pooled) == 1 else writer.node("Concat", pooled, f"{name}.concatenated", axis=-1)


def _write_mode(writer: GraphWriter, hidden: str, mode: str, name: str) -> str:
    """Return one pooled vector, (batch, hidden); padding is on the right, so the first token is row 0."""
    if mode == "cls":
        return writer.node(
            "Gather", [hidden, writer.constant("int64_scalar_0", np.array(0, np.int64))], name, axis=1
        )
    if mode == "max":
        is_token = writer.node("Cast", ["attention_mask"], f"{name}.is_token", to=BOOL)
        column = writer.node("Unsqueeze", [is_token, writer.integers(2)], f"{name}.is_token_column")
        lowest = writer.scalar("minus_infinity", -np.inf)
        kept = writer.node("Where", [column, hidden, lowest], f"{name}.kept")
        return writer.node("ReduceMax", [kept, writer.integers(1)], name, keepdims=0)
    weights = _write_token_weights(writer, mode, name)  # (batch, tokens)
    row = writer.node("Unsqueeze", [weights, writer.integers(1)], f"{name}.row")
    product = writer.node("MatMul", [row, hidden], f"{name}.total_row")  # (batch, 1, hidden)
    total = writer.node("Squeeze", [product, writer.integers(1)], f"{name}.total")
    if mode == "lasttoken":
        return total
    count = writer.node("ReduceSum", [weights, writer.integers(1)], f"{name}.count", keepdims=1)
    safe = writer.node("Max", [count, writer.scalar("min_count", MIN_COUNT)], f"{name}.safe_count")
    if mode == "mean_sqrt_len_tokens":
        safe = writer.node("Sqrt", [safe], f"{name}.root")
    return writer.node("Div", [total, safe], name)


def _write_token_weights(writer: GraphWriter, mode: str, name: str) -> str:
    """Return each token's weight in the sum, (batch, tokens): 1, its rank from 1, or 1 for the last only."""
    mask = writer.node("Cast", ["attention_mask"], f"{name}.mask", to=FLOAT)
    if mode in ("mean", "mean_sqrt_len_tokens"):
        return mask
    axis = writer.constant("axis_1", np.array(1, np.int64))
    rank = writer.node("CumSum", [mask, axis], f"{name}.rank")
    if mode == "weightedmean":
        return writer.node("Mul", [rank, mask], f"{name}.weights")
    count = writer.node("ReduceSum", [mask, writer.integers(1)], f"{name}.count", keepdims=1)
    is_last = writer.node("Equal", [rank, count], f"{name}.is_last_rank")
    return writer.node("Mul", [writer.node("Cast", [is_last], f"{name}.last", to=FLOAT), mask], f"{name}.weights")


def write_language_model(
    writer: GraphWriter, hidden: str, spec: EncoderSpec, head: LanguageModelHead, word_table: str
) -> str:
    """Write the head that guesses masked tokens; returns its logits, (batch, tokens, vocabulary).

    ``word_table`` is the encoder's, (vocabulary, embedding), read again by heads that have none of their own.
    """
    inner = writer.linear(hidden, "language_model.inner", head.inner)
    active = writer.activation(inner, "language_model.activation", head.activation)
    normed = writer.layer_norm(active, "language_model.norm", head.norm, spec.layer_norm_eps)
    if head.table is None:
        table = writer.node("Transpose", [word_table], "language_model.table", perm=[1, 0])
    else:
        table = writer.weight("language_model.weight", head.table.T)
    product = writer.node("MatMul", [normed, table], "language_model.product")
    return writer.node("Add", [product, writer.weight("language_model.bias", head.bias)], "language_model")


def write_splade(writer: GraphWriter, logits: str, pooling: SpladePooling, vocab_size: int) -> Shapes:
    """Write log(1 + relu(logits)), the maximum or the sum over the tokens of a text.

    Source: Formal et al., SPLADE, 2021 (sum), SPLADE v2, 2021 (maximum).
    """
    mask = writer.node("Cast", ["attention_mask"], "splade.mask", to=FLOAT)
    if pooling.strategy == "max":
        # The logarithm grows with its argument: after the maximum it is taken once a text, not once a token.
        column = writer.node("Unsqueeze", [mask, writer.integers(2)], "splade.mask_column")
        kept = writer.node("Mul", [logits, column], "splade.kept")
        highest = writer.node("ReduceMax", [kept, writer.integers(1)], "splade.highest", keepdims=0)
        pooled = _write_saturation(writer, highest, pooling)
    else:
        row = writer.node("Unsqueeze", [mask, writer.integers(1)], "splade.mask_row")
        total = writer.node("MatMul", [row, _write_saturation(writer, logits, pooling)], "splade.total_row")
        pooled = writer.node("Squeeze", [total, writer.integers(1)], "splade.total")
    writer.node("Identity", [pooled], "sparse_embedding")
    return {"sparse_embedding": ["batch", vocab_size]}


def _write_saturation(writer: GraphWriter, x: str, pooling: SpladePooling) -> str:
    x = writer.node("Relu", [x], "splade.positive")
    for number in range(pooling.logarithms):
        shifted = writer.node("Add", [x, writer.scalar("one", 1.0)], f"splade.shifted.{number}")
        x = writer.node("Log", [shifted], f"splade.logarithm.{number}")
    return x


def write_classification(
    writer: GraphWriter, hidden: str, spec: EncoderSpec, weights: Weights, labels: Labels
) -> Shapes:
    """Write a sequence classifier or a cross-encoder: the first token's vector through two linear layers."""
    layers = CLASSIFIERS[spec.family]
    prefix = find_prefix(spec.family, weights) if layers.first_is_pooler else ""
    size = spec.hidden_size
    first = _write_mode(writer, hidden, "cls", "classifier.first_token")
    inner = writer.linear(first, "classifier.inner", read_linear(weights, prefix + layers.first, size, size))
    active = writer.activation(inner, "classifier.activation", layers.activation)
    last = read_linear(weights, layers.last, len(labels.names), size)
    return write_answer(writer, writer.linear(active, "classifier", last), labels, ["batch"])


def write_token_classification(
    writer: GraphWriter, hidden: str, spec: EncoderSpec, weights: Weights, labels: Labels
) -> Shapes:
    """Write a linear layer over every token."""
    last = read_linear(weights, "classifier", len(labels.names), spec.hidden_size)
    return write_answer(writer, writer.linear(hidden, "classifier", last), labels, ["batch", "tokens"])


def write_answer(writer: GraphWriter, raw: str, labels: Labels, axes: list[str | int]) -> Shapes:
    """Write the outputs of a classifier from its last linear layer, (*axes, labels)."""
    shape = [*axes, len(labels.names)]
    if labels.is_regression:
        writer.node("Identity", [raw], "scores")
        return {"scores": shape}
    writer.node("Identity", [raw], "logits")
    if labels.multi_label:
        writer.node("Sigmoid", [raw], "probabilities")
    else:
        writer.node("Softmax", [raw], "probabilities", axis=-1)
    return {"logits": shape, "probabilities": shape}


def write_question_answering(writer: GraphWriter, hidden: str, spec: EncoderSpec, weights: Weights) -> Shapes:
    """Write the start and end of the answer: one score each per token."""
    both = writer.linear(hidden, "answer", read_linear(weights, "qa_outputs", 2, spec.hidden_size))
    return write_span(writer, both)


def write_span(writer: GraphWriter, both: str) -> Shapes:
    """Write start_logits and end_logits from (batch, tokens, 2)."""
    for column, name in enumerate(("start_logits", "end_logits")):
        index = writer.constant(f"int64_scalar_{column}", np.array(column, np.int64))
        writer.node("Gather", [both, index], name, axis=2)
    return {"start_logits": ["batch", "tokens"], "end_logits": ["batch", "tokens"]}
