"""Preparing a version for CTranslate2: its encoder in CTranslate2's format, the rest of its graph beside it.

The weights come from the float32 graph that ``importing/encoder_graph.py`` wrote, under the names it gave them; no
torch and no transformers take part. BERT, DistilBERT, RoBERTa, XLM-RoBERTa and CamemBERT are encoders that
CTranslate2 computes; ELECTRA's narrower embedding and MPNet's relative positions are not.

Weights are int8 with a scale per output channel, the word table with a scale per row; activations are quantized
while it runs, with a scale per token. The weights are always narrow: on CPUs without VNNI the others overflow
(docs/decisions/0011), and elsewhere narrow ones cost .0001 of cosine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tremplin.errors import EngineFailed, MissingExtra, OptimizeFailed, PassFailed, UnknownVersion
from tremplin.optimize.passes.graph import cut_after, quantize_columns, read_graph
from tremplin.registry.files import locked, sha256_of
from tremplin.registry.manifest import MODEL_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.serve.engines.ctranslate2 import (
    EXTRA,
    HIDDEN_STATES,
    TAIL_FILE,
    Recipe,
    read_prepared,
    write_prepared,
)

FAMILIES = "BERT, DistilBERT, RoBERTa, XLM-RoBERTa and CamemBERT"

# What each activation is to CTranslate2: the names of its ``Activation``.
ACTIVATIONS = {"Gelu": "GELU", "Gelu tanh": "GELUTanh", "Relu": "RELU", "Mul": "SWISH", "Tanh": "Tanh"}


def prepare_version(registry: Registry, manifest: Manifest, folder: Path) -> Path:
    """Prepare a version in ``folder`` and return it; what is there already is used when it is whole.

    The weights are those of the float32 version that it was made from, found by ``origin.source``. Raises
    PassFailed for an encoder CTranslate2 does not compute, OptimizeFailed when the float32 version is not in the
    registry any more, DamagedArtefact, and MissingExtra when CTranslate2 is not installed.
    """
    source = float_ancestor(registry, manifest)
    recipe = Recipe(source.artefact(MODEL_FILE).sha256, manifest.artefact(MODEL_FILE).sha256)
    if not is_prepared(folder, recipe):  # by the manifests' digests: the graphs need not be read
        _prepare(registry.path(source, MODEL_FILE), registry.path(manifest, MODEL_FILE), folder, recipe)
    return folder


def prepare(encoder: Path, graph: Path, folder: Path) -> Path:
    """Prepare the encoder of one graph and the tail of another in ``folder`` and return it; see prepare_version.

    ``encoder`` has the float32 weights, ``graph`` is the version's own: the same file for a float32 version.
    """
    recipe = Recipe(sha256_of(encoder), sha256_of(graph))
    if not is_prepared(folder, recipe):
        _prepare(encoder, graph, folder, recipe)
    return folder


def is_prepared(folder: Path, recipe: Recipe) -> bool:
    """Return whether the folder holds what the recipe makes, undamaged."""
    try:
        return read_prepared(folder).recipe == recipe
    except EngineFailed:
        return False


def float_ancestor(registry: Registry, manifest: Manifest) -> Manifest:
    """Return the float32 version that a version was made from; itself when it is float32.

    Raises OptimizeFailed when the registry does not have it.
    """
    found = manifest
    while found.precision != "fp32":
        try:
            found = registry.resolve(found.origin.source)
        except UnknownVersion:
            raise OptimizeFailed(
                f"{found.ref} was made from {found.origin.source}, which is not in the registry: its float32 "
                f"weights are needed to prepare {manifest.ref} for CTranslate2. Import the model again."
            ) from None
    return found


def _prepare(encoder: Path, graph: Path, folder: Path, recipe: Recipe) -> None:
    """Write the folder aside and put it in its place by a rename; of several processes one does the work."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{folder.name}.lock"):
        if is_prepared(folder, recipe):
            return
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            _write(encoder, graph, aside, recipe)
            shutil.rmtree(folder, ignore_errors=True)  # of another recipe, or damaged
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _write(encoder: Path, graph: Path, folder: Path, recipe: Recipe) -> None:
    weights = EncoderGraph.of(read_graph(encoder))
    tail = cut_after(read_graph(graph), weights.last_hidden_states, HIDDEN_STATES, weights.hidden_size)
    spec = _specify(weights)
    spec.validate()
    spec.save(str(folder))
    onnx.save(tail, str(folder / TAIL_FILE))
    write_prepared(folder, recipe, vocab_size=weights.vocab_size, has_token_types=weights.token_types is not None)


@dataclass(frozen=True)
class EncoderGraph:
    """An encoder read back from its graph."""

    constants: Mapping[str, onnx.TensorProto]
    nodes: Mapping[str, onnx.NodeProto] = field(repr=False)
    """By the name of their first output."""

    @classmethod
    def of(cls, model: onnx.ModelProto) -> EncoderGraph:
        """Return the encoder of a graph; raises PassFailed when CTranslate2 does not compute its like."""
        graph = cls(
            {tensor.name: tensor for tensor in model.graph.initializer},
            {node.output[0]: node for node in model.graph.node},
        )
        if "embeddings.word.weight" not in graph.constants or not graph.layers:
            raise PassFailed(
                "The graph was not written by Tremplin's own builder; CTranslate2 computes "
                f"{FAMILIES} imported by it. Use another engine."
            )
        for name, what in (
            ("embeddings.projection.weight", "an embedding narrower than its layers (ELECTRA)"),
            ("attention.relative_bias.weight", "relative positions (MPNet)"),
        ):
            if name in graph.constants:
                raise PassFailed(f"The encoder has {what}; CTranslate2 computes {FAMILIES}. Use another engine.")
        return graph

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return sum(name.endswith(".attention.qkv.weight") for name in self.constants)

    @property
    def vocab_size(self) -> int:
        """Rows of the word table."""
        return int(self.constants["embeddings.word.weight"].dims[0])

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.constants["embeddings.word.weight"].dims[1])

    @property
    def heads(self) -> int:
        """Attention heads of a layer, read from the shape that splits the queries: (0, 0, heads, head size)."""
        return int(self.read(self._node("encoder.0.attention.query.shaped").input[1])[2])

    @property
    def last_hidden_states(self) -> str:
        """Name of the tensor that leaves the last layer."""
        return f"encoder.{self.layers - 1}.feed_forward.norm.normed"

    @property
    def epsilon(self) -> float:
        """Of every layer normalisation."""
        node = self._node("embeddings.norm.normed")
        return next(float(attribute.f) for attribute in node.attribute if attribute.name == "epsilon")

    @property
    def activation(self) -> str:
        """The feed-forward layers' activation, as CTranslate2 names it."""
        node = self._node("encoder.0.feed_forward.activation")
        is_tanh = any(a.name == "approximate" and a.s == b"tanh" for a in node.attribute)
        return ACTIVATIONS[f"{node.op_type} tanh" if is_tanh else node.op_type]

    @property
    def positions(self) -> NDArray[np.float32]:
        """(tokens, hidden), from the first token's row on: RoBERTa's table begins with rows that no token gets."""
        table = self.read("embeddings.position.weight")
        if self._node("embeddings.position").op_type == "Slice":
            return table
        padding_id = int(self.read(self._node("positions.is_padding").input[1])[0])
        return table[padding_id + 1 :]

    @property
    def token_types(self) -> NDArray[np.float32] | None:
        """(types, hidden), when the graph reads token_type_ids; else type 0 is part of the positions."""
        name = "embeddings.token_type.weight"
        return self.read(name) if name in self.constants else None

    def read(self, name: str) -> NDArray[Any]:
        """Return a constant of the graph; raises PassFailed when it is not there or not float."""
        tensor = self.constants.get(name)
        if tensor is None:
            raise PassFailed(f"The graph has no {name}; it was not written by Tremplin's own builder.")
        if name.endswith(".weight") and tensor.data_type != onnx.TensorProto.FLOAT:
            raise PassFailed(f"{name} is not float32: CTranslate2's weights are made from the fp32 version.")
        values: NDArray[Any] = numpy_helper.to_array(tensor)
        return values

    def _node(self, output: str) -> onnx.NodeProto:
        if output not in self.nodes:
            raise PassFailed(f"The graph has no {output}; it was not written by Tremplin's own builder.")
        return self.nodes[output]


def _specify(graph: EncoderGraph) -> Any:
    """Return CTranslate2's description of the encoder, its weights in it."""
    try:
        from ctranslate2.specs import (
            Activation,
            EmbeddingsMerge,
            TransformerEncoderModelSpec,
            TransformerEncoderSpec,
        )
    except ImportError:
        raise MissingExtra(EXTRA) from None
    types = graph.token_types
    encoder = TransformerEncoderSpec(
        graph.layers,
        graph.heads,
        pre_norm=False,
        activation=Activation[graph.activation],
        num_source_embeddings=1 if types is None else 2,
        embeddings_merge=EmbeddingsMerge.ADD,
        layernorm_embedding=True,
    )
    encoder.scale_embeddings = False
    _set_rows(encoder.embeddings[0], graph.read("embeddings.word.weight"))
    if types is not None:
        encoder.embeddings[1].weight = types
    encoder.position_encodings.encodings = graph.positions
    _set_norm(encoder.layernorm_embedding, graph, "embeddings.norm")
    for index, layer in enumerate(encoder.layer):
        attention, wide = f"encoder.{index}.attention", f"encoder.{index}.feed_forward"
        # The graph's queries carry the 1/sqrt(head size) of the scores already.
        layer.self_attention.queries_scale = np.float32(1)
        _set_linear(layer.self_attention.linear[0], graph, f"{attention}.qkv")
        _set_linear(layer.self_attention.linear[1], graph, f"{attention}.output")
        _set_norm(layer.self_attention.layer_norm, graph, f"{attention}.norm")
        _set_linear(layer.ffn.linear_0, graph, f"{wide}.up")
        _set_linear(layer.ffn.linear_1, graph, f"{wide}.down")
        _set_norm(layer.ffn.layer_norm, graph, f"{wide}.norm")
    spec = TransformerEncoderModelSpec(encoder)
    # Token ids go in, so the names of the tokens do not matter; CTranslate2 wants one for each row.
    spec.register_vocabulary([str(row) for row in range(graph.vocab_size)])
    spec.config.layer_norm_epsilon = graph.epsilon
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = "0"  # noqa: S105 (no password)
    return spec


def _set_linear(spec: Any, graph: EncoderGraph, name: str) -> None:
    columns, scales = quantize_columns(graph.read(f"{name}.weight"), narrow=True)
    spec.weight = np.ascontiguousarray(columns.T)  # (out, in)
    spec.weight_scale = 1 / scales  # CTranslate2 divides by it
    if f"{name}.bias" in graph.constants:
        spec.bias = graph.read(f"{name}.bias")


def _set_rows(spec: Any, table: NDArray[np.float32]) -> None:
    rows, scales = quantize_columns(table.T)
    spec.weight = np.ascontiguousarray(rows.T)
    spec.weight_scale = 1 / scales


def _set_norm(spec: Any, graph: EncoderGraph, name: str) -> None:
    spec.gamma = graph.read(f"{name}.weight")
    spec.beta = graph.read(f"{name}.bias")
