"""What a graph is compared with: the source itself, computed by other code than the builder's.

Two references answer the same questions: NumpyReference needs nothing beyond NumPy, TransformersReference
(transformers_reference.py) is the original library, used when torch is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from tremplin.errors import MissingExtra
from tremplin.optimize.importing.checkpoint import Checkpoint
from tremplin.optimize.importing.weights import Floats
from tremplin.registry.task import Task

Text = str | tuple[str, str]
"""One text, or a pair: question and passage, sentence and sentence."""

Answers = Mapping[str, Sequence[Floats]]
"""By output name, one array for each text, without the batch axis and without padding."""


class ReferenceKind(StrEnum):
    """Which reference an import is checked against."""

    AUTO = "auto"
    NUMPY = "numpy"
    TRANSFORMERS = "transformers"


class Reference(Protocol):
    """The source of a model, answering as it does on its own."""

    @property
    def name(self) -> str:
        """What computes it, with versions."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of its outputs; empty when the task has none."""
        ...

    @property
    def is_normalized(self) -> bool:
        """Whether its embeddings have unit length."""
        ...

    def answer(self, texts: Sequence[Text]) -> Answers:
        """Return the source's outputs under the names of heads.py, for each text."""
        ...


def open_reference(
    checkpoint: Checkpoint,
    task: Task,
    max_tokens: int,
    kind: ReferenceKind,
    *,
    token_embeddings: bool = False,
) -> Reference:
    """Return the reference asked for; AUTO takes transformers when it is installed, else NumPy.

    With ``token_embeddings`` it gives an embedding model's hidden states as well.
    Raises MissingExtra when TRANSFORMERS is asked for and is not installed.
    """
    is_possible = has_transformers(task, checkpoint.is_sentence_model)
    if kind is ReferenceKind.TRANSFORMERS and not is_possible:
        raise MissingExtra(
            "Comparing with transformers needs torch, transformers and sentence-transformers: "
            "install torch for your machine, then pip install 'tremplin[optimize]', or use reference='numpy'."
        )
    if kind is ReferenceKind.NUMPY or not is_possible:
        from tremplin.optimize.importing.numpy_reference import NumpyReference

        return NumpyReference(checkpoint, task, max_tokens, token_embeddings=token_embeddings)
    from tremplin.optimize.importing.transformers_reference import TransformersReference

    return TransformersReference(checkpoint, task, max_tokens, token_embeddings=token_embeddings)


def has_transformers(task: Task, is_sentence_model: bool) -> bool:
    """Return whether the libraries that the source was written for can be imported; imports none of them."""
    needed = ["torch", "transformers"]
    if task is Task.EMBEDDING and is_sentence_model:
        needed.append("sentence_transformers")
    return all(importlib.util.find_spec(name) is not None for name in needed)
