"""The head that guesses masked tokens, read from a checkpoint under the names its family gives it.

Every family has the same three steps (a linear layer, its activation and normalisation, a product with the word
table); they differ in names and in the activation. Sources: as families.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from tremplin.errors import IncompleteSource
from tremplin.optimize.importing.checkpoint import Config
from tremplin.optimize.importing.encoder_weights import Linear, Norm, read_linear, read_norm
from tremplin.optimize.importing.families import EncoderSpec
from tremplin.optimize.importing.weights import Floats, Weights


@dataclass(frozen=True)
class LanguageModelHead:
    """The weights of the head, float32."""

    inner: Linear
    activation: str
    norm: Norm
    table: Floats | None
    """(vocabulary, embedding); None when it is the encoder's word table."""
    bias: Floats
    """(vocabulary,)"""


@dataclass(frozen=True)
class HeadNames:
    """Where the tensors of a family's head lie."""

    inner: str
    norm: str
    table: str
    biases: tuple[str, ...]
    """Where it is shared with the word table's product, then where that product has its own."""
    activation: str = ""
    """Empty when it is the encoder's."""


ROBERTA_HEAD = HeadNames(
    "lm_head.dense",
    "lm_head.layer_norm",
    "lm_head.decoder.weight",
    ("lm_head.bias", "lm_head.decoder.bias"),
    "gelu",
)

HEAD_NAMES = {
    "bert": HeadNames(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder.weight",
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    "distilbert": HeadNames(
        "vocab_transform", "vocab_layer_norm", "vocab_projector.weight", ("vocab_projector.bias",)
    ),
    "electra": HeadNames(
        "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.weight",
        ("generator_lm_head.bias",), "gelu",
    ),
    "roberta": ROBERTA_HEAD,
    "xlm-roberta": ROBERTA_HEAD,
    "camembert": ROBERTA_HEAD,
    "mpnet": ROBERTA_HEAD,
}  # fmt: skip


def read_language_model_head(spec: EncoderSpec, weights: Weights, config: Config) -> LanguageModelHead:
    """Return the head of a masked language model; raises IncompleteSource when the checkpoint has none."""
    names = HEAD_NAMES[spec.family]
    if f"{names.inner}.weight" not in weights:
        raise IncompleteSource(
            f"{config.path.parent} has no language model head ({names.inner}.weight); sparse embeddings are read "
            "from one. Give a masked language model trained as SPLADE."
        )
    width = spec.embedding_size
    is_tied = bool(config.values.get("tie_word_embeddings", True))
    biases = names.biases if is_tied else names.biases[::-1]
    bias = next((name for name in biases if name in weights), biases[0])
    return LanguageModelHead(
        inner=read_linear(weights, names.inner, width, spec.hidden_size),
        activation=names.activation or spec.activation,
        norm=read_norm(weights, names.norm, width),
        table=None if is_tied else weights.read(names.table, (spec.vocab_size, width)),
        bias=weights.read(bias, (spec.vocab_size,)),
    )
