"""The reference that is the original library: transformers, and sentence-transformers for its models."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tremplin.errors import IncompleteSource
from tremplin.optimize.importing.checkpoint import Checkpoint
from tremplin.optimize.importing.reference import Answers, Text
from tremplin.optimize.importing.sentence_modules import SpladePooling, read_splade_pooling
from tremplin.optimize.importing.weights import Floats
from tremplin.registry.task import Task

AUTO_CLASSES = {
    Task.EMBEDDING: "AutoModel",
    Task.SPARSE_EMBEDDING: "AutoModelForMaskedLM",
    Task.CLASSIFICATION: "AutoModelForSequenceClassification",
    Task.RERANKING: "AutoModelForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "AutoModelForTokenClassification",
    Task.QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
}


class TransformersReference:
    """A source loaded by the library it was written with, float32 on the CPU, one text at a time."""

    def __init__(
        self, checkpoint: Checkpoint, task: Task, max_tokens: int, *, token_embeddings: bool = False
    ) -> None:
        self._task = task
        self._token_embeddings = token_embeddings
        self._pooling = read_splade_pooling(checkpoint) if task is Task.SPARSE_EMBEDDING else SpladePooling()
        self._max_tokens = max_tokens
        self._sentence_model: Any = None
        with quiet():
            if task is Task.EMBEDDING and checkpoint.is_sentence_model:
                self._sentence_model = _load_sentence_model(checkpoint, max_tokens)
            else:
                self._model, self._tokenizer = load_model(checkpoint, task), _load_tokenizer(checkpoint)

    @property
    def name(self) -> str:
        """Names and versions of the libraries."""
        import torch
        import transformers

        name = f"transformers {transformers.__version__}, torch {torch.__version__}"
        if self._sentence_model is not None:
            import sentence_transformers

            name = f"sentence-transformers {sentence_transformers.__version__}, {name}"
        return name

    @property
    def labels(self) -> tuple[str, ...]:
        """Names from the loaded configuration, by index."""
        if self._task not in (Task.CLASSIFICATION, Task.RERANKING, Task.TOKEN_CLASSIFICATION):
            return ()
        named = self._model.config.id2label
        return tuple(str(named[index]) for index in range(len(named)))

    @property
    def is_normalized(self) -> bool:
        """Whether the last thing done to an embedding is to bring it to unit length."""
        if self._task is not Task.EMBEDDING:
            return False
        return self._sentence_model is None or type(self._sentence_model[-1]).__name__ == "Normalize"

    def answer(self, texts: Sequence[Text]) -> Answers:
        """Return the outputs of the source for each text."""
        import torch

        with torch.no_grad(), quiet():
            rows = [self._answer_one(text) for text in texts]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _answer_one(self, text: Text) -> dict[str, Floats]:
        if self._sentence_model is not None:
            # Not encode(): it would add the model's default prompt, which is the caller's business here.
            features = self._sentence_model.preprocess([text])
            given = self._sentence_model(features)
            return self._embedding(given["sentence_embedding"][0], given["token_embeddings"][0])
        parts = (text,) if isinstance(text, str) else text
        # "longest_first" is what tokenizer.json does with a pair that is too long.
        encoded = self._tokenizer(
            *parts, truncation="longest_first", max_length=self._max_tokens, return_tensors="pt"
        )
        output = self._model(**encoded)
        match self._task:
            case Task.EMBEDDING:
                import torch

                mean = output.last_hidden_state[0].mean(dim=0)
                return self._embedding(torch.nn.functional.normalize(mean, dim=0), output.last_hidden_state[0])
            case Task.SPARSE_EMBEDDING:
                return {"sparse_embedding": _floats(self._pool_sparse(output.logits[0]))}
            case Task.RERANKING:
                return {"scores": _floats(output.logits[0])}
            case Task.QUESTION_ANSWERING:
                return {
                    "start_logits": _floats(output.start_logits[0]),
                    "end_logits": _floats(output.end_logits[0]),
                }
            case _:
                return self._classify(output.logits[0])

    def _embedding(self, embedding: Any, hidden: Any) -> dict[str, Floats]:
        answer = {"embedding": _floats(embedding)}
        return answer | {"token_embeddings": _floats(hidden)} if self._token_embeddings else answer

    def _pool_sparse(self, logits: Any) -> Any:
        weights = logits.relu()
        for _ in range(self._pooling.logarithms):
            weights = weights.log1p()
        return weights.sum(dim=0) if self._pooling.strategy == "sum" else weights.amax(dim=0)

    def _classify(self, logits: Any) -> dict[str, Floats]:
        import torch

        problem = self._model.config.problem_type
        is_sequence = self._task is Task.CLASSIFICATION
        if is_sequence and (problem == "regression" or (problem is None and logits.shape[-1] == 1)):
            return {"scores": _floats(logits)}
        is_multi_label = is_sequence and problem == "multi_label_classification"
        probabilities = torch.sigmoid(logits) if is_multi_label else torch.softmax(logits, dim=-1)
        return {"logits": _floats(logits), "probabilities": _floats(probabilities)}


def load_model(checkpoint: Checkpoint, task: Task) -> Any:
    """Return the source as a torch module, in float32 and evaluation mode.

    Raises IncompleteSource when the checkpoint lacks weights, a head's for instance.
    """
    import torch
    import transformers

    auto_class = getattr(transformers, AUTO_CLASSES[task])
    # "eager": the plain arithmetic, which every architecture has and every exporter understands.
    model, loaded = auto_class.from_pretrained(
        checkpoint.folder,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    # transformers fills what is missing with random numbers. A pooler is not used for embeddings.
    missing = [key for key in loaded["missing_keys"] if not (task is Task.EMBEDDING and "pooler" in key)]
    if missing:
        raise IncompleteSource(
            f"{checkpoint.folder} lacks {len(missing)} tensors that {task} needs, such as {min(missing)!r}."
        )
    return model.eval()


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(checkpoint.tokenizer_path.parent, local_files_only=True)


def _load_sentence_model(checkpoint: Checkpoint, max_tokens: int) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint.root), device="cpu", local_files_only=True).float().eval()
    # RoBERTa's first two position rows are for padding; sentence-transformers would run two tokens too far.
    model.max_seq_length = min(model.max_seq_length or max_tokens, max_tokens)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and advice to themselves while they load and run."""
    import transformers

    exporter_log = logging.getLogger("torch.onnx")
    exporter_level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter_log.setLevel(exporter_level)
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


def _floats(tensor: Any) -> Floats:
    return np.asarray(tensor.detach().float().numpy(), dtype=np.float32)
