"""Forward pass of the supported encoders in NumPy, one text at a time, straight from tensors and config.json.

Written independently of the graph builder and sharing no code with it: it reads the configuration itself,
keeps queries, keys and values apart, needs no mask because nothing is padded. A mistake made in one of the
two shows as a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from tremplin.errors import UnsupportedModel
from tremplin.optimize.importing.weights import Floats, Weights

Ids = npt.NDArray[np.int64]

PREFIXES = {"bert": "bert.", "electra": "electra.", "distilbert": "distilbert.", "mpnet": "mpnet."}

# Linear layer, normalisation and last layer of what guesses masked tokens; the RoBERTas and MPNet have one form.
MASKED_HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
}


def erf(x: Floats) -> npt.NDArray[np.float64]:
    """Error function, absolute error below 1.5e-7. Source: Abramowitz and Stegun, formula 7.1.26."""
    size = np.abs(x.astype(np.float64))
    t = 1.0 / (1.0 + 0.3275911 * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    result: npt.NDArray[np.float64] = np.copysign(1.0 - series * np.exp(-size * size), x)
    return result


def gelu(x: Floats) -> Floats:
    """x times the normal distribution function. Source: Hendrycks and Gimpel, 2016."""
    return (x * 0.5 * (1.0 + erf(x / np.float32(math.sqrt(2.0))))).astype(np.float32)


def gelu_tanh(x: Floats) -> Floats:
    """The tanh approximation of gelu, same source."""
    wide = x.astype(np.float64)
    return (0.5 * wide * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (wide + 0.044715 * wide**3)))).astype(
        np.float32
    )


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return (0.5 * (1.0 + np.tanh(0.5 * x.astype(np.float64)))).astype(np.float32)


def silu(x: Floats) -> Floats:
    """x times its sigmoid."""
    return x * sigmoid(x)


def relu(x: Floats) -> Floats:
    """The positive part of x."""
    return np.maximum(x, np.float32(0))


def softmax(x: Floats) -> Floats:
    """Softmax over the last axis."""
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return total


FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "gelu": gelu, "gelu_python": gelu,
    "gelu_new": gelu_tanh, "gelu_fast": gelu_tanh, "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh, "gelu_python_tanh": gelu_tanh,
    "relu": relu, "silu": silu, "swish": silu, "tanh": np.tanh,
}  # fmt: skip


class NumpyEncoder:
    """One encoder with its weights in memory, read once."""

    def __init__(self, config: Mapping[str, object], weights: Weights) -> None:
        self.kind = str(config["model_type"])
        self.config = {key: value for key, value in config.items() if value is not None}
        self._weights = weights
        self._cache: dict[str, Floats] = {}
        family = PREFIXES.get(self.kind, "roberta.")
        has_prefix = any(name.startswith(f"{family}embeddings.") for name in weights.names)
        self.prefix = family if has_prefix else self._other_prefix()
        self.heads = self._int("num_attention_heads", "n_heads")
        self.epsilon = 1e-12 if self.kind == "distilbert" else float(str(self.config.get("layer_norm_eps", 1e-12)))
        name = str(self.config.get("activation" if self.kind == "distilbert" else "hidden_act", "gelu"))
        if name not in FUNCTIONS:
            raise UnsupportedModel(f"Activation {name!r} has no NumPy form.")
        self.activation = FUNCTIONS[name]

    def hidden_states(self, input_ids: Ids, token_types: Ids) -> Floats:
        """Return the last hidden states, (tokens, hidden) float32; both arguments are (tokens,)."""
        x = self._embed(input_ids, token_types)
        bias = self._relative_bias(len(input_ids))
        for index in range(self._int("num_hidden_layers", "n_layers")):
            x = self._layer(x, index, bias)
        return x

    def token_logits(self, hidden: Floats) -> Floats:
        """Return a masked language model's guesses, (tokens, vocabulary), from its hidden states."""
        inner, norm, last = MASKED_HEADS.get(self.kind, ("lm_head.dense", "lm_head.layer_norm", "lm_head"))
        function = self.activation if self.kind in ("bert", "distilbert") else gelu
        narrow = self._norm(function(self.linear(hidden, inner)), norm)
        own = last if self.kind in ("distilbert", "electra") else f"{last}.decoder"
        if self.config.get("tie_word_embeddings") is False:
            table, biases = self.tensor(f"{own}.weight"), (f"{own}.bias", f"{last}.bias")
        else:
            table = self._word_table(f"{self.prefix}embeddings.word_embeddings.weight")
            biases = (f"{last}.bias", f"{own}.bias")
        bias = next(name for name in biases if name in self._weights)
        logits: Floats = narrow @ table.T + self.tensor(bias)
        return logits

    def linear(self, x: Floats, name: str) -> Floats:
        """Apply the linear layer of this full tensor name."""
        product: Floats = x @ self.tensor(f"{name}.weight").T + self.tensor(f"{name}.bias")
        return product

    def tensor(self, name: str) -> Floats:
        """Return a tensor by its full name, read at most once."""
        if name not in self._cache:
            self._cache[name] = self._weights.read(name)
        return self._cache[name]

    def _embed(self, input_ids: Ids, token_types: Ids) -> Floats:
        at = f"{self.prefix}embeddings."
        x = self._word_table(f"{at}word_embeddings.weight")[input_ids]
        x = x + self.tensor(f"{at}position_embeddings.weight")[self._positions(input_ids)]
        if self.kind not in ("distilbert", "mpnet"):
            x = x + self.tensor(f"{at}token_type_embeddings.weight")[token_types]
        x = self._norm(x, f"{at}LayerNorm")
        projection = f"{self.prefix}embeddings_project"
        return self.linear(x, projection) if f"{projection}.weight" in self._weights else x

    def _word_table(self, name: str) -> Floats:
        if name in self._weights:
            return self.tensor(name)
        tied = ("cls.predictions.decoder", "lm_head.decoder", "vocab_projector", "generator_lm_head")
        return self.tensor(next((f"{head}.weight" for head in tied if f"{head}.weight" in self._weights), name))

    def _positions(self, input_ids: Ids) -> Ids:
        if self.kind in ("bert", "electra", "distilbert"):
            return np.arange(len(input_ids))
        padding = 1 if self.kind == "mpnet" else int(str(self.config.get("pad_token_id", 1)))
        real = (input_ids != padding).astype(np.int64)
        positions: Ids = np.cumsum(real) * real + padding
        return positions

    def _layer(self, x: Floats, index: int, bias: Floats) -> Floats:
        if self.kind == "distilbert":
            at = f"{self.prefix}transformer.layer.{index}."
            mixed = self._attend(x, [f"{at}attention.{part}_lin" for part in "qkv"], bias)
            x = self._norm(self.linear(mixed, f"{at}attention.out_lin") + x, f"{at}sa_layer_norm")
            wide = self.activation(self.linear(x, f"{at}ffn.lin1"))
            return self._norm(self.linear(wide, f"{at}ffn.lin2") + x, f"{at}output_layer_norm")
        at = f"{self.prefix}encoder.layer.{index}."
        if self.kind == "mpnet":
            mixed = self._attend(x, [f"{at}attention.attn.{part}" for part in "qkv"], bias)
            x = self._norm(self.linear(mixed, f"{at}attention.attn.o") + x, f"{at}attention.LayerNorm")
        else:
            mixed = self._attend(x, [f"{at}attention.self.{part}" for part in ("query", "key", "value")], bias)
            x = self._norm(
                self.linear(mixed, f"{at}attention.output.dense") + x, f"{at}attention.output.LayerNorm"
            )
        wide = self.activation(self.linear(x, f"{at}intermediate.dense"))
        return self._norm(self.linear(wide, f"{at}output.dense") + x, f"{at}output.LayerNorm")

    def _attend(self, x: Floats, names: list[str], bias: Floats) -> Floats:
        tokens, hidden = x.shape
        width = hidden // self.heads
        split = (self.linear(x, name).reshape(tokens, self.heads, width).swapaxes(0, 1) for name in names)
        query, key, value = split  # (heads, tokens, width) each
        scores = query @ key.swapaxes(1, 2) / np.float32(math.sqrt(width)) + bias
        mixed: Floats = (softmax(scores) @ value).swapaxes(0, 1).reshape(tokens, hidden)
        return mixed

    def _relative_bias(self, tokens: int) -> Floats:
        """MPNet's bias, (heads, tokens, tokens); zero for the other families."""
        if self.kind != "mpnet":
            return np.zeros((1, 1, 1), np.float32)
        table = self.tensor(f"{self.prefix}encoder.relative_attention_bias.weight")
        bucket = np.empty((tokens, tokens), np.int64)
        for query in range(tokens):
            for key in range(tokens):
                bucket[query, key] = relative_bucket(key - query)
        rows: Floats = table[bucket].transpose(2, 0, 1)
        return rows

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        normed: Floats = centred / deviation * self.tensor(f"{name}.weight") + self.tensor(f"{name}.bias")
        return normed

    def _int(self, *names: str) -> int:
        return next(int(str(self.config[name])) for name in names if name in self.config)

    def _other_prefix(self) -> str:
        found = (name.partition("embeddings.word_embeddings")[0] for name in sorted(self._weights.names))
        return next((prefix for prefix in found if prefix not in self._weights.names), "")


def relative_bucket(distance: int) -> int:
    """Return MPNet's bucket of 32 for key - query: exact below 8 tokens, then logarithmic up to 128."""
    side = 16 if distance > 0 else 0
    far = abs(distance)
    if far < 8:
        return side + far
    # The small term keeps exact powers of two (8, 16, 32, 64) on torch's side of the bucket's edge.
    return side + min(15, 8 + int(math.log(far / 8) / math.log(128 / 8) * 8 + 1e-6))
