"""What a graph computes; the name decides its outputs."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """The task a version's graph was built for."""

    EMBEDDING = "embedding"
    CLASSIFICATION = "classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 (a task, not a secret)
    QUESTION_ANSWERING = "question-answering"
