"""The reference that needs only NumPy: tokenizer, encoder and head read again from the source."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from tremplin.errors import UnsupportedModel
from tremplin.optimize.importing.checkpoint import Checkpoint, SentenceModule
from tremplin.optimize.importing.numpy_encoder import (
    NumpyEncoder,
    gelu,
    relu,
    sigmoid,
    silu,
    softmax,
)
from tremplin.optimize.importing.reference import Answers, Text
from tremplin.optimize.importing.weights import Floats, Weights
from tremplin.registry.task import Task

DENSE_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "Tanh": np.tanh,
    "ReLU": relu,
    "GELU": gelu,
    "SiLU": silu,
    "Sigmoid": sigmoid,
}


class NumpyReference:
    """A source recomputed in NumPy, one text at a time and without padding."""

    def __init__(
        self, checkpoint: Checkpoint, task: Task, max_tokens: int, *, token_embeddings: bool = False
    ) -> None:
        from tokenizers import Tokenizer

        self._task = task
        self._token_embeddings = token_embeddings
        self._checkpoint = checkpoint
        self._values = json.loads((checkpoint.folder / "config.json").read_bytes())
        self._encoder = NumpyEncoder(self._values, checkpoint.weights)
        self._tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._lowers = bool(checkpoint.sentence_config.get("do_lower_case"))
        self._modules = checkpoint.modules or ()
        self._dense_weights = {m.folder: Weights(m.folder) for m in self._modules if m.kind == "Dense"}

    @property
    def name(self) -> str:
        """Name and version of what computes."""
        return f"numpy {np.__version__}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names from id2label, by index."""
        if self._task not in (Task.CLASSIFICATION, Task.RERANKING, Task.TOKEN_CLASSIFICATION):
            return ()
        stored = self._values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        return tuple(stored[key] for key in sorted(stored, key=int))

    @property
    def is_normalized(self) -> bool:
        """Whether the last thing done to an embedding is to bring it to unit length."""
        if self._task is not Task.EMBEDDING:
            return False
        kinds = [module.kind for module in self._modules if module.kind != "Dropout"]
        return "Pooling" not in kinds or kinds[-1] == "Normalize"

    def answer(self, texts: Sequence[Text]) -> Answers:
        """Return the outputs of the source for each text."""
        rows = [self._answer_one(text) for text in texts]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _answer_one(self, text: Text) -> dict[str, Floats]:
        first, second = (text, None) if isinstance(text, str) else text
        if self._lowers:
            first, second = first.lower(), second and second.lower()
        encoded = self._tokenizer.encode(first, second)
        ids, types = np.array(encoded.ids, np.int64), np.array(encoded.type_ids, np.int64)
        # Only BERT's and ELECTRA's own tokenizers mark the second text; the others' models never see a 1.
        if self._encoder.kind not in ("bert", "electra"):
            types = np.zeros_like(types)
        hidden = self._encoder.hidden_states(ids, types)
        match self._task:
            case Task.EMBEDDING:
                tokens = {"token_embeddings": hidden} if self._token_embeddings else {}
                return {"embedding": self._embed(hidden)} | tokens
            case Task.SPARSE_EMBEDDING:
                return {"sparse_embedding": self._pool_sparse(self._encoder.token_logits(hidden))}
            case Task.CLASSIFICATION:
                return self._classify(self._sequence_logits(hidden[0]))
            case Task.RERANKING:
                return {"scores": self._sequence_logits(hidden[0])}
            case Task.TOKEN_CLASSIFICATION:
                logits = self._encoder.linear(hidden, "classifier")
                return {"logits": logits, "probabilities": softmax(logits)}
            case Task.QUESTION_ANSWERING:
                both = self._encoder.linear(hidden, "qa_outputs")
                return {"start_logits": both[:, 0], "end_logits": both[:, 1]}

    def _sequence_logits(self, first: Floats) -> Floats:
        encoder = self._encoder
        match encoder.kind:
            case "bert":
                return encoder.linear(
                    np.tanh(encoder.linear(first, f"{encoder.prefix}pooler.dense")), "classifier"
                )
            case "distilbert":
                return encoder.linear(relu(encoder.linear(first, "pre_classifier")), "classifier")
            case "electra":
                return encoder.linear(gelu(encoder.linear(first, "classifier.dense")), "classifier.out_proj")
            case _:
                return encoder.linear(np.tanh(encoder.linear(first, "classifier.dense")), "classifier.out_proj")

    def _classify(self, logits: Floats) -> dict[str, Floats]:
        problem = self._values.get("problem_type")
        if problem == "regression" or (problem is None and len(logits) == 1):
            return {"scores": logits}
        squash = sigmoid if problem == "multi_label_classification" else softmax
        return {"logits": logits, "probabilities": squash(logits)}

    def _pool_sparse(self, logits: Floats) -> Floats:
        """SPLADE: a weight for each entry of the vocabulary, from (tokens, vocabulary)."""
        declared = next((m.config.values for m in self._modules if m.kind == "SpladePooling"), {})
        weights = np.log1p(relu(logits))
        if declared.get("activation_function") == "log1p_relu":
            weights = np.log1p(weights)
        return np.asarray(
            weights.sum(axis=0) if declared.get("pooling_strategy") == "sum" else weights.max(axis=0)
        )

    def _embed(self, hidden: Floats) -> Floats:
        if not any(module.kind == "Pooling" for module in self._modules):
            return _unit(hidden.mean(axis=0))
        vector = np.zeros(0, np.float32)
        for module in self._modules:
            match module.kind:
                case "Pooling":
                    vector = _pool(hidden, module)
                case "Dense":
                    vector = self._dense(vector, module)
                case "Normalize":
                    vector = _unit(vector)
        return vector

    def _dense(self, vector: Floats, module: SentenceModule) -> Floats:
        weights = self._dense_weights[module.folder]
        x = weights.read("linear.weight") @ vector
        if "linear.bias" in weights:
            x = x + weights.read("linear.bias")
        name = str(module.config.values.get("activation_function", "Tanh")).rpartition(".")[2]
        return x if name == "Identity" else DENSE_FUNCTIONS[name](x)


def _pool(hidden: Floats, module: SentenceModule) -> Floats:
    """Pool (tokens, hidden) to (modes * hidden,), in the order sentence-transformers concatenates."""
    values = module.config.values
    declared = values.get("pooling_mode")
    if declared is None:
        suffixes = (
            "cls_token",
            "max_tokens",
            "mean_tokens",
            "mean_sqrt_len_tokens",
            "weightedmean_tokens",
            "lasttoken",
        )
        modes = [suffix for suffix in suffixes if values.get(f"pooling_mode_{suffix}")] or ["mean_tokens"]
    else:
        modes = [str(mode) for mode in declared] if isinstance(declared, list) else [str(declared)]
    return np.concatenate([_pool_one(hidden, mode) for mode in modes])


def _pool_one(hidden: Floats, mode: str) -> Floats:
    ranks = np.arange(1, len(hidden) + 1, dtype=np.float32)
    match mode:
        case "cls" | "cls_token":
            return np.asarray(hidden[0])
        case "max" | "max_tokens":
            return np.asarray(hidden.max(axis=0))
        case "mean" | "mean_tokens":
            return np.asarray(hidden.mean(axis=0))
        case "mean_sqrt_len_tokens":
            return np.asarray(hidden.sum(axis=0) / np.float32(len(hidden)) ** np.float32(0.5))
        case "weightedmean" | "weightedmean_tokens":
            return np.asarray(ranks @ hidden / ranks.sum())
        case "lasttoken":
            return np.asarray(hidden[-1])
        case _:
            raise UnsupportedModel(f"Pooling mode {mode!r} has no NumPy form.")


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
