"""The vectors of the documents that search looks in: computed once for a version, kept in the data folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tremplin.registry.files import write_atomically
from tremplin.registry.manifest import MODEL_FILE
from tremplin.serve.call import OWN
from tremplin.serve.infer import Inferencer
from tremplin.tasks.embed import Vectors
from tremplin.tasks.search import Document

INDEXED_AT_ONCE = 64  # documents in one request: below every limit on requests


@dataclass(frozen=True)
class DocumentIndex:
    """Documents as one version sees them."""

    inferencer: Inferencer
    """What queries must be asked with: vectors of two versions cannot be compared."""
    vectors: Vectors
    """(documents, dim), of unit length."""

    @classmethod
    async def of(cls, inferencer: Inferencer, documents: Sequence[Document], cache: Path | None) -> DocumentIndex:
        """Return the index, from ``cache`` when it holds the vectors of this version.

        The cache's name is the digest of the graph and of the texts, so another version or another document is
        another file; a file that cannot be read is computed again.
        """
        texts = [f"{document.title}. {document.text}" for document in documents]
        file = None if cache is None else cache / f"{_digest(inferencer, texts)}.npy"
        kept = None if file is None else _read(file, len(texts))
        if kept is not None:
            return cls(inferencer, kept)
        parts = [
            (await inferencer.infer(texts[first : first + INDEXED_AT_ONCE], OWN)).stacked("embedding")
            for first in range(0, len(texts), INDEXED_AT_ONCE)
        ]
        vectors = np.concatenate(parts)
        if file is not None:
            content = io.BytesIO()
            np.save(content, vectors, allow_pickle=False)
            write_atomically(file, content.getvalue())
        return cls(inferencer, vectors)


def _digest(inferencer: Inferencer, texts: Sequence[str]) -> str:
    graph = inferencer.manifest.artefact(MODEL_FILE).sha256
    return hashlib.sha256("\0".join([graph, *texts]).encode("utf-8", "surrogatepass")).hexdigest()


def _read(file: Path, rows: int) -> Vectors | None:
    try:
        vectors: Vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.ndim == 2 and len(vectors) == rows and vectors.dtype == np.float32 else None
