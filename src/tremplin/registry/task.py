"""What a graph computes; the name decides its outputs."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """The task a version's graph was built for."""

    EMBEDDING = "embedding"
    SPARSE_EMBEDDING = "sparse-embedding"
    """A weight for each entry of the vocabulary, nearly all of them 0 (SPLADE)."""
    CLASSIFICATION = "classification"
    RERANKING = "reranking"
    """One score for a query and a document read together (cross-encoder)."""
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 (a task, not a secret)
    QUESTION_ANSWERING = "question-answering"
