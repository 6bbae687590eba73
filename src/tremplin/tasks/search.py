"""Semantic search over a small set of documents, exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tremplin.tasks.embed import Vectors


@dataclass(frozen=True)
class Document:
    """One thing that can be found."""

    id: str
    title: str
    text: str
    lang: str = ""


@dataclass(frozen=True)
class Hit:
    """A document found, best first."""

    document: Document
    score: float
    """Cosine with the query, in [-1, 1]."""


def nearest(query: Vectors, index: Vectors, documents: Sequence[Document], top_k: int) -> list[Hit]:
    """Return the ``top_k`` documents whose vectors are nearest to the query, best first.

    ``query`` is a unit vector (dim,), ``index`` holds the documents' unit vectors (documents, dim).
    Equal scores keep the documents' order.
    """
    scores = np.clip(index @ query, -1.0, 1.0)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Hit(documents[i], float(scores[i])) for i in order]
