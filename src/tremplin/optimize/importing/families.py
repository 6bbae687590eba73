"""Encoder families: what a configuration says of the network, and where each weight lies in the checkpoint.

Six families share one skeleton (embeddings, then layers of attention and feed-forward, each followed by a
residual normalisation); they differ in names and in the four points that ``EncoderSpec`` carries: positions,
token types, an embedding narrower than the layers (ELECTRA), a relative attention bias (MPNet).

Sources: Devlin et al. 2019 (BERT), Liu et al. 2019 (RoBERTa), Conneau et al. 2020 (XLM-R), Martin et al. 2020
(CamemBERT), Sanh et al. 2019 (DistilBERT), Clark et al. 2020 (ELECTRA), Song et al. 2020 (MPNet); the
arithmetic follows transformers 5.23.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tremplin.errors import IncompleteSource, UnsupportedModel
from tremplin.optimize.importing.checkpoint import Checkpoint, Config

# transformers' names for the four functions that the builder writes.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh",
}  # fmt: skip

MPNET_BUCKETS = 32  # MPNetEncoder.compute_position_bias always uses its default, whatever the config says


class Positions(StrEnum):
    """How a token's position row is chosen."""

    FROM_ZERO = "from zero"
    AFTER_PADDING = "padding_idx + 1 + rank among the tokens that are not padding"


@dataclass(frozen=True)
class LayerNames:
    """Where the tensors of one layer lie, relative to the layer; each has ``.weight`` and ``.bias``."""

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


BERT_LAYER = LayerNames(
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm",
    "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
DISTILBERT_LAYER = LayerNames(
    "attention.q_lin", "attention.k_lin", "attention.v_lin",
    "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip
MPNET_LAYER = LayerNames(
    "attention.attn.q", "attention.attn.k", "attention.attn.v",
    "attention.attn.o", "attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """What distinguishes one family from another before any configuration is read."""

    prefix: str
    layer_names: LayerNames = BERT_LAYER
    layers_at: str = "encoder.layer"
    positions: Positions = Positions.FROM_ZERO
    has_token_types: bool = True
    tokenizer_marks_second_text: bool = False
    """Whether its tokenizers give the second text of a pair token type 1 (RoBERTa's never do)."""


FAMILIES = {
    "bert": Family("bert.", tokenizer_marks_second_text=True),
    "electra": Family("electra.", tokenizer_marks_second_text=True),
    "distilbert": Family("distilbert.", DISTILBERT_LAYER, "transformer.layer", has_token_types=False),
    "roberta": Family("roberta.", positions=Positions.AFTER_PADDING),
    "xlm-roberta": Family("roberta.", positions=Positions.AFTER_PADDING),
    "camembert": Family("roberta.", positions=Positions.AFTER_PADDING),
    "mpnet": Family("mpnet.", MPNET_LAYER, positions=Positions.AFTER_PADDING, has_token_types=False),
}


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder, fully described by numbers and names."""

    family: str
    vocab_size: int
    embedding_size: int
    hidden_size: int
    layers: int
    heads: int
    feed_forward_size: int
    activation: str
    """One of gelu, gelu_tanh, relu, silu, tanh."""
    layer_norm_eps: float
    position_rows: int
    positions: Positions
    padding_id: int
    token_types: int
    """Rows of the token type table; 0 when the family has none."""
    tokenizer_marks_second_text: bool
    relative_buckets: int
    """Rows of the relative attention bias; 0 when the family has none."""

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def max_positions(self) -> int:
        """Longest text in tokens: RoBERTa's and MPNet's first rows are never used for real tokens."""
        return self.position_rows - (self.padding_id + 1 if self.positions is Positions.AFTER_PADDING else 0)


def is_known_family(checkpoint: Checkpoint) -> bool:
    """Return whether this builder knows the architecture; others go through torch_export.py."""
    return checkpoint.model_type in FAMILIES


def read_spec(checkpoint: Checkpoint) -> EncoderSpec:
    """Return the encoder that ``config.json`` describes.

    Raises UnsupportedModel for a variant the builder does not write (relative positions, decoders,
    cross-attention, an unknown activation), IncompleteSource when the numbers contradict each other.
    """
    config = checkpoint.config
    family = FAMILIES[checkpoint.model_type]
    _refuse_variants(config)
    hidden_size = config.integer("hidden_size", "dim")
    heads = config.integer("num_attention_heads", "n_heads")
    if heads < 1 or hidden_size % heads:
        raise IncompleteSource(f"{config.path}: hidden size {hidden_size} cannot be divided by {heads} heads.")
    is_electra, is_mpnet = checkpoint.model_type == "electra", checkpoint.model_type == "mpnet"
    return EncoderSpec(
        family=checkpoint.model_type,
        vocab_size=config.integer("vocab_size"),
        embedding_size=config.integer("embedding_size", default=128) if is_electra else hidden_size,
        hidden_size=hidden_size,
        layers=config.integer("num_hidden_layers", "n_layers"),
        heads=heads,
        feed_forward_size=config.integer("intermediate_size", "hidden_dim"),
        activation=_activation(config),
        # DistilBERT writes no epsilon: its code has 1e-12 in it.
        layer_norm_eps=config.number("layer_norm_eps", default=1e-12),
        position_rows=config.integer("max_position_embeddings", default=512),
        positions=family.positions,
        # MPNetEmbeddings sets padding_idx = 1 and reads no configuration for it.
        padding_id=1 if is_mpnet else config.integer("pad_token_id", default=_default_padding(family)),
        token_types=config.integer("type_vocab_size", default=2) if family.has_token_types else 0,
        tokenizer_marks_second_text=family.tokenizer_marks_second_text,
        relative_buckets=config.integer("relative_attention_num_buckets", default=MPNET_BUCKETS)
        if is_mpnet
        else 0,
    )


def _default_padding(family: Family) -> int:
    return 1 if family.positions is Positions.AFTER_PADDING else 0


def _refuse_variants(config: Config) -> None:
    positions = config.text("position_embedding_type", default="absolute")
    if positions != "absolute":
        raise UnsupportedModel(
            f"{config.path}: position_embedding_type {positions!r}; only 'absolute' can be built."
        )
    for flag in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        if config.flag(flag):
            raise UnsupportedModel(f"{config.path}: {flag} is true; only encoders can be built.")


def _activation(config: Config) -> str:
    name = config.text("hidden_act", "activation", default="gelu")
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{config.path}: activation {name!r} cannot be built; known: {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[name]
