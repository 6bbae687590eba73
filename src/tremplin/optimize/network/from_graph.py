"""Reads the network back from a graph this package wrote: the inverse of ``importing/encoder_graph.py``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tremplin.errors import PassFailed
from tremplin.optimize.importing.encoder_graph import WORD_TABLE
from tremplin.optimize.importing.encoder_weights import (
    EncoderWeights,
    LayerWeights,
    Linear,
    Norm,
    relative_bias_by_distance,
)
from tremplin.optimize.importing.families import MPNET_BUCKETS, EncoderSpec, Positions
from tremplin.optimize.importing.parity import PADDING_KEY, TASK_KEY
from tremplin.optimize.importing.sentence_modules import POOLING_MODES, Dense, EmbeddingStep, Normalize, Pooling
from tremplin.optimize.importing.weights import Floats
from tremplin.optimize.network.network import Head, Network
from tremplin.optimize.passes.graph import read_graph
from tremplin.registry.task import Task

OPERATOR_ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}


def read_network(path: Path, labels: tuple[str, ...] = ()) -> Network:
    """Return the network in a float32 graph; ``labels`` are those of the version's interface.

    Raises PassFailed when the graph was not written by this package or holds quantized weights.
    """
    return _GraphReader(read_graph(path), path.name).network(labels)


class _GraphReader:
    """Looks weights and nodes up by their names."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self._name = name
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = {output: node for node in model.graph.node for output in node.output}
        self._metadata = {entry.key: entry.value for entry in model.metadata_props}

    def network(self, labels: tuple[str, ...]) -> Network:
        if WORD_TABLE not in self._constants:
            raise PassFailed(
                f"{self._name} holds no float32 {WORD_TABLE!r}: it is quantized, or was not built by tremplin. "
                "Training and pruning start from an fp32 version imported from a known family."
            )
        spec, weights = self._encoder()
        task = Task(self._metadata.get(TASK_KEY, Task.EMBEDDING.value))
        network = Network(spec, weights, self._steps(), None, (), task, dict(self._metadata))
        return self._with_head(network, labels)

    def _encoder(self) -> tuple[EncoderSpec, EncoderWeights]:
        word, position = self._array(WORD_TABLE), self._array("embeddings.position.weight")
        if "embeddings.token_type.weight" in self._constants:
            position = position + self._array("embeddings.token_type.weight")[0]
        projection = self._linear("embeddings.projection") if self._has("embeddings.projection") else None
        bigram = self._array("embeddings.bigram.weight") if self._has("embeddings.bigram") else None
        count = sum(bool(re.fullmatch(r"encoder\.\d+\.attention\.qkv\.weight", name)) for name in self._constants)
        hidden = word.shape[1] if projection is None else len(projection.weight)
        after_padding = "positions.ids" in self._nodes
        padding_id = int(self._metadata.get(PADDING_KEY, "0"))
        if after_padding:
            padding_id = int(self._array(self._nodes["positions.is_padding"].input[1])[0])
        head_size = self._head_size(hidden)
        layers = tuple(self._layer(f"encoder.{index}", head_size) for index in range(count))
        relative = self._relative_bias()
        spec = EncoderSpec(
            family=self._metadata.get("tremplin.family", "bert"),
            vocab_size=len(word),
            embedding_size=word.shape[1],
            hidden_size=hidden,
            layers=count,
            heads=hidden // head_size,
            feed_forward_size=len(layers[0].up.weight) if layers else 4 * hidden,
            activation=self._activation("encoder.0.feed_forward.activation") if layers else "gelu",
            layer_norm_eps=self._epsilon("embeddings.norm.normed"),
            position_rows=len(position),
            positions=Positions.AFTER_PADDING if after_padding else Positions.FROM_ZERO,
            padding_id=padding_id,
            token_types=0,
            tokenizer_marks_second_text=False,
            relative_buckets=0 if relative is None else len(relative),
        )
        weights = EncoderWeights(
            word=word,
            position=position,
            token_type=None,
            norm=self._norm("embeddings.norm"),
            projection=projection,
            relative_bias=relative,
            layers=layers,
            bigram=bigram,
        )
        return spec, weights

    def _head_size(self, hidden: int) -> int:
        """From the shape that queries are given; a network without layers has no heads."""
        node = self._nodes.get("encoder.0.attention.query.shaped")
        return int(self._array(node.input[1])[3]) if node is not None else hidden

    def _layer(self, name: str, head_size: int) -> LayerWeights:
        """Undo the merging of queries, keys and values and the scaling of the queries."""
        weight, bias = self._array(f"{name}.attention.qkv.weight"), None
        if f"{name}.attention.qkv.bias" in self._constants:
            bias = self._array(f"{name}.attention.qkv.bias")
        scale = np.float32(head_size**0.5)
        parts = np.split(weight, 3, axis=1)
        biases: list[Floats | None] = [None] * 3 if bias is None else list(np.split(bias, 3))
        query, key, value = (
            Linear(np.ascontiguousarray(part.T) * factor, None if offset is None else offset * factor)
            for part, offset, factor in zip(parts, biases, (scale, np.float32(1), np.float32(1)), strict=True)
        )
        return LayerWeights(
            query=query,
            key=key,
            value=value,
            attention_output=self._linear(f"{name}.attention.output"),
            attention_norm=self._norm(f"{name}.attention.norm"),
            up=self._linear(f"{name}.feed_forward.up"),
            down=self._linear(f"{name}.feed_forward.down"),
            output_norm=self._norm(f"{name}.feed_forward.norm"),
        )

    def _relative_bias(self) -> Floats | None:
        """Back from a row a distance to a row a bucket; buckets no distance falls in stay 0."""
        if not self._has("attention.relative_bias"):
            return None
        by_distance = self._array("attention.relative_bias.weight")
        longest = (len(by_distance) + 1) // 2
        numbers = np.arange(MPNET_BUCKETS, dtype=np.float32)[:, None]
        bucket = relative_bias_by_distance(numbers, longest)[:, 0].astype(np.int64)
        bias = np.zeros((MPNET_BUCKETS, by_distance.shape[1]), np.float32)
        bias[bucket] = by_distance
        return bias

    def _steps(self) -> tuple[EmbeddingStep, ...]:
        steps: list[EmbeddingStep] = []
        while (step := self._step(f"sentence.{len(steps)}")) is not None:
            steps.append(step)
        if not steps and self._has("classifier.inner"):  # a sequence classifier: first token, then a layer
            inner = Dense(self._linear("classifier.inner"), self._activation("classifier.activation"))
            return (Pooling(("cls",)), inner)
        return tuple(steps)

    def _step(self, name: str) -> EmbeddingStep | None:
        if f"{name}.normalized" in self._nodes:
            return Normalize()
        if self._has(f"{name}.dense"):
            return Dense(self._linear(f"{name}.dense"), self._activation(f"{name}.activation"))
        modes = tuple(mode for mode in POOLING_MODES if self._has_mode(name, mode))
        if f"{name}.concatenated" in self._nodes:
            order = [output.removeprefix(f"{name}.") for output in self._nodes[f"{name}.concatenated"].input]
            modes = tuple(part.removesuffix(".total") for part in order)
        return Pooling(modes) if modes else None

    def _has_mode(self, name: str, mode: str) -> bool:
        return f"{name}.{mode}" in self._nodes or (f"{name}.{mode}.total" in self._nodes and mode == "lasttoken")

    def _with_head(self, network: Network, labels: tuple[str, ...]) -> Network:
        for name in ("head", "classifier"):
            if f"{name}.weight" in self._constants:
                head = Head(self._array(f"{name}.weight"), self._array(f"{name}.bias"))
                return replace(network, head=head, labels=labels)
        return network

    # -- looking up ----------------------------------------------------------------------------------

    def _has(self, name: str) -> bool:
        return f"{name}.weight" in self._constants

    def _array(self, name: str) -> Floats:
        tensor = self._constants.get(name)
        if tensor is None:
            raise PassFailed(
                f"{self._name} holds no {name!r}: it was not built by tremplin, or was changed since."
            )
        return np.array(numpy_helper.to_array(tensor))

    def _linear(self, name: str) -> Linear:
        bias = self._array(f"{name}.bias") if f"{name}.bias" in self._constants else None
        return Linear(np.ascontiguousarray(self._array(f"{name}.weight").T), bias)

    def _norm(self, name: str) -> Norm:
        return Norm(self._array(f"{name}.weight"), self._array(f"{name}.bias"))

    def _epsilon(self, output: str) -> float:
        return float(next(a.f for a in self._nodes[output].attribute if a.name == "epsilon"))

    def _activation(self, output: str) -> str:
        """Return the function that makes a tensor; one that nothing makes is the identity of its input."""
        node = self._nodes.get(output)
        if node is None:
            return "identity"
        if node.op_type == "Gelu":
            is_tanh = any(a.name == "approximate" and a.s == b"tanh" for a in node.attribute)
            return "gelu_tanh" if is_tanh else "gelu"
        return "silu" if node.op_type == "Mul" else OPERATOR_ACTIVATIONS[node.op_type]
