"""A network as a torch module: the same arithmetic as the graph, with gradients.

The module mirrors ``importing/encoder_graph.py`` operation by operation; ``tests/unit/optimize/network`` compares
both on every family.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tremplin.optimize.importing.encoder_graph import BIGRAM_FACTOR, MASKED
from tremplin.optimize.importing.encoder_weights import (
    EncoderWeights,
    LayerWeights,
    Linear,
    Norm,
    relative_bias_by_distance,
)
from tremplin.optimize.importing.families import EncoderSpec, Positions
from tremplin.optimize.importing.heads import MIN_COUNT, MIN_NORM
from tremplin.optimize.importing.sentence_modules import Dense, Normalize, Pooling
from tremplin.optimize.importing.weights import Floats
from tremplin.optimize.network.network import Head, Network
from tremplin.registry.task import Task

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class Outputs:
    """What a forward pass gives."""

    hidden: list[Tensor]
    """Token vectors after the embeddings and after each layer, (batch, tokens, hidden)."""
    embedding: Tensor | None
    """(batch, dim); None for a classifier of tokens."""
    logits: Tensor | None
    """(batch, labels), or (batch, tokens, labels); None without a head."""
    attention: list[Tensor]
    """(batch, heads, tokens, tokens) of each layer, when asked for."""


class TorchLayer(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """One layer of attention and feed-forward."""

    def __init__(self, layer: LayerWeights, spec: EncoderSpec, dropout: float) -> None:
        super().__init__()
        self.head_size = spec.head_size
        self.heads = len(layer.query.weight) // spec.head_size
        self.activation = ACTIVATIONS[spec.activation]
        self.dropout = dropout
        self.qkv = _linear(_stacked(layer.query, layer.key, layer.value))
        self.attention_output = _linear(layer.attention_output)
        self.attention_norm = _norm(layer.attention_norm, spec.layer_norm_eps)
        self.up = _linear(layer.up)
        self.down = _linear(layer.down)
        self.output_norm = _norm(layer.output_norm, spec.layer_norm_eps)
        # Multiplied in when set; their gradients say what a head or a neuron is worth (compress/prune.py).
        self.head_gate: Tensor | None = None
        self.neuron_gate: Tensor | None = None

    def forward(
        self, hidden: Tensor, bias: Tensor | None, *, with_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the layer's token vectors, (batch, tokens, hidden), and its attention when asked for."""
        batch, tokens, _ = hidden.shape
        merged = self.qkv(hidden).view(batch, tokens, 3, self.heads, self.head_size)
        query, key, value = merged.permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        attention = None
        if with_attention:
            scores = query @ key.transpose(-1, -2) * self.head_size**-0.5
            attention = torch.softmax(scores if bias is None else scores + bias, dim=-1)
            mixed = functional.dropout(attention, drop, self.training) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop)
        if self.head_gate is not None:
            mixed = mixed * self.head_gate[:, None, None]
        context = mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_size)
        attended = functional.dropout(self.attention_output(context), drop, self.training)
        hidden = self.attention_norm(attended + hidden)
        wide = self.activation(self.up(hidden))
        if self.neuron_gate is not None:
            wide = wide * self.neuron_gate
        narrow = functional.dropout(self.down(wide), drop, self.training)
        return self.output_norm(narrow + hidden), attention

    def weights(self) -> LayerWeights:
        """Return the layer as arrays."""
        query, key, value = (
            Linear(weight, bias)
            for weight, bias in zip(
                np.split(_array(self.qkv.weight), 3),
                np.split(_array(self.qkv.bias), 3) if self.qkv.bias is not None else [None] * 3,
                strict=True,
            )
        )
        return LayerWeights(
            query=query,
            key=key,
            value=value,
            attention_output=_as_linear(self.attention_output),
            attention_norm=_as_norm(self.attention_norm),
            up=_as_linear(self.up),
            down=_as_linear(self.down),
            output_norm=_as_norm(self.output_norm),
        )


class TorchNetwork(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """A network that can be trained; ``network()`` gives it back as arrays."""

    def __init__(self, network: Network, *, dropout: float = 0.0) -> None:
        super().__init__()
        self._source = network
        weights, spec = network.weights, network.spec
        self.dropout = dropout
        self.word = nn.Embedding.from_pretrained(_tensor(weights.word), freeze=False)
        self.position = nn.Embedding.from_pretrained(_tensor(weights.position), freeze=False)
        self.bigram = (
            nn.Embedding.from_pretrained(_tensor(weights.bigram), freeze=False)
            if weights.bigram is not None
            else None
        )
        self.norm = _norm(weights.norm, spec.layer_norm_eps)
        self.projection = _linear(weights.projection) if weights.projection is not None else None
        self.relative_bias = (
            nn.Parameter(_tensor(weights.relative_bias)) if weights.relative_bias is not None else None
        )
        self.layers = nn.ModuleList(TorchLayer(layer, spec, dropout) for layer in weights.layers)
        self.dense = nn.ModuleDict(
            {str(i): _linear(step.linear) for i, step in enumerate(network.steps) if isinstance(step, Dense)}
        )
        self.head: nn.Linear | None = None
        if network.head is not None:
            self.head = _linear(Linear(np.ascontiguousarray(network.head.weight.T), network.head.bias))

    def forward(self, ids: Tensor, mask: Tensor, *, with_attention: bool = False) -> Outputs:
        """Run token ids and their mask, int64 (batch, tokens), padded on the right."""
        hidden, bias = self._embed(ids, mask), self._attention_bias(ids, mask)
        states, attentions = [hidden], []
        for layer in self.layers:
            hidden, attention = layer(hidden, bias, with_attention=with_attention)
            states.append(hidden)
            if attention is not None:
                attentions.append(attention)
        if self._source.task is Task.TOKEN_CLASSIFICATION:
            logits = (
                self.head(functional.dropout(hidden, self.dropout, self.training))
                if self.head is not None
                else None
            )
            return Outputs(states, None, logits, attentions)
        embedding = self._sentence(hidden, mask)
        return Outputs(states, embedding, self.head(embedding) if self.head is not None else None, attentions)

    def network(self) -> Network:
        """Return the network with the weights as they are now."""
        source = self._source
        weights = EncoderWeights(
            word=_array(self.word.weight),
            position=_array(self.position.weight),
            token_type=None,
            norm=_as_norm(self.norm),
            projection=_as_linear(self.projection) if self.projection is not None else None,
            relative_bias=_array(self.relative_bias) if self.relative_bias is not None else None,
            layers=tuple(layer.weights() for layer in self.layers),
            bigram=_array(self.bigram.weight) if self.bigram is not None else None,
        )
        steps = tuple(
            Dense(_as_linear(self.dense[str(i)]), step.activation) if isinstance(step, Dense) else step
            for i, step in enumerate(source.steps)
        )
        head = None
        if self.head is not None:
            linear = _as_linear(self.head)
            bias = linear.bias if linear.bias is not None else np.zeros(len(linear.weight), np.float32)
            head = Head(np.ascontiguousarray(linear.weight.T), bias)
        return replace(source, weights=weights, steps=steps, head=head)

    # -- stations of a forward pass ----------------------------------------------------------------

    def _embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        spec = self._source.spec
        if spec.positions is Positions.FROM_ZERO:
            position = self.position.weight[: ids.shape[1]]
        else:
            is_token = (ids != spec.padding_id).long()
            position = self.position(is_token.cumsum(1) * is_token + spec.padding_id)
        total = self.word(ids) + position
        if self.bigram is not None:
            before = functional.pad(ids, (1, -1))
            total = total + self.bigram((before * BIGRAM_FACTOR + ids) % self.bigram.num_embeddings)
        hidden = functional.dropout(self.norm(total), self.dropout, self.training)
        return self.projection(hidden) if self.projection is not None else hidden

    def _attention_bias(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        if not self.layers:
            return None
        # None lets the kernel skip the addition when nothing is padded: batches hold near lengths.
        bias = None if bool(mask.all()) else ((1 - mask.float()) * MASKED)[:, None, None, :]
        if self.relative_bias is None:
            return bias
        tokens = ids.shape[1]
        numbers = np.arange(len(self.relative_bias), dtype=np.float32)[:, None]
        bucket = torch.from_numpy(relative_bias_by_distance(numbers, tokens)[:, 0].astype(np.int64))
        rank = torch.arange(tokens)
        by_pair = self.relative_bias[bucket[rank[None, :] - rank[:, None] + tokens - 1]]  # (query, key, heads)
        by_head = by_pair.permute(2, 0, 1)[None]
        return by_head if bias is None else by_head + bias

    def _sentence(self, hidden: Tensor, mask: Tensor) -> Tensor:
        x = hidden
        for index, step in enumerate(self._source.steps):
            match step:
                case Pooling(modes):
                    x = torch.cat([_pooled(x, mask, mode) for mode in modes], dim=-1)
                case Dense(_, activation):
                    x = ACTIVATIONS[activation](self.dense[str(index)](x))
                case Normalize():
                    x = x / x.norm(dim=-1, keepdim=True).clamp(min=MIN_NORM)
        return x


def _pooled(hidden: Tensor, mask: Tensor, mode: str) -> Tensor:
    """Return one vector a row, (batch, hidden); as ``importing/heads.py`` writes it."""
    real = mask.float()
    match mode:
        case "cls":
            return hidden[:, 0]
        case "max":
            return hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1)
        case "lasttoken":
            return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
        case "weightedmean":
            real = real.cumsum(1) * real
    total = (hidden * real[:, :, None]).sum(1)
    count = real.sum(1, keepdim=True).clamp(min=MIN_COUNT)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _stacked(*parts: Linear) -> Linear:
    biases = [part.bias for part in parts if part.bias is not None]
    weight = np.concatenate([part.weight for part in parts])
    return Linear(weight, np.concatenate(biases) if len(biases) == len(parts) else None)


def _linear(linear: Linear) -> nn.Linear:
    outputs, inputs = linear.weight.shape
    made = nn.Linear(inputs, outputs, bias=linear.bias is not None)
    with torch.no_grad():
        made.weight.copy_(_tensor(linear.weight))
        if linear.bias is not None:
            made.bias.copy_(_tensor(linear.bias))
    return made


def _norm(norm: Norm, epsilon: float) -> nn.LayerNorm:
    made = nn.LayerNorm(len(norm.weight), eps=epsilon)
    with torch.no_grad():
        made.weight.copy_(_tensor(norm.weight))
        made.bias.copy_(_tensor(norm.bias))
    return made


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().cpu().numpy().astype(np.float32, copy=True)
    return array


def _as_linear(module: nn.Module) -> Linear:
    return Linear(_array(module.weight), _array(module.bias) if module.bias is not None else None)


def _as_norm(module: nn.LayerNorm) -> Norm:
    return Norm(_array(module.weight), _array(module.bias))
