"""The engine: what runs a batch. Five methods, and nothing else is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tremplin.registry.task import Task


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of token ids, padded on the right to the longest."""

    input_ids: NDArray[np.int64]
    """(rows, tokens)"""
    attention_mask: NDArray[np.int64]
    """(rows, tokens), 1 for a token and 0 for padding."""
    token_type_ids: NDArray[np.int64] | None = None
    """(rows, tokens), 0 for the first text of a pair and 1 for the second; None when no row is a pair."""

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return int(self.input_ids.shape[0])

    @property
    def width(self) -> int:
        """Tokens of the longest row, to which the others are padded."""
        return int(self.input_ids.shape[1])


# The output that answers a task. Graphs of other tasks are imported and proven; no service answers with them yet.
SERVED_OUTPUT = {
    Task.EMBEDDING: "embedding",
    Task.SPARSE_EMBEDDING: "sparse_embedding",
    Task.CLASSIFICATION: "probabilities",
    Task.RERANKING: "scores",
}

# Further outputs that a service can answer with: one row for each token, padded to the batch's width.
TOKEN_EMBEDDINGS = "token_embeddings"  # noqa: S105 (an output, not a secret)
TOKEN_OUTPUTS = frozenset({TOKEN_EMBEDDINGS})

# One array per output of the graph; the first axis is the row.
Outputs = Mapping[str, NDArray[np.float32]]


class Engine(Protocol):
    """Runs batches of one version.

    ``run`` is called from as many threads at once as the engine was made with ``streams``; everything else from
    one thread, while nothing runs.
    """

    @property
    def name(self) -> str:
        """The engine and its version, as passports name it."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the graph's outputs, known once it is loaded."""
        ...

    def load(self) -> None:
        """Read the graph and get ready; raises EngineFailed."""
        ...

    def warm_up(self) -> None:
        """Run once on small batches, so that the first caller does not pay for lazy work."""
        ...

    def run(self, batch: TokenBatch) -> Outputs:
        """Return the outputs for each row; raises EngineFailed, EngineOutOfMemory when a smaller batch may do."""
        ...

    def health(self) -> bool:
        """Return whether the engine can run a batch now."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it can be loaded again."""
        ...


def pad(rows: Sequence[Sequence[int]], types: Sequence[Sequence[int] | None] = ()) -> TokenBatch:
    """Return rows of token ids as one batch padded with 0 on the right.

    ``types`` are the rows' token types; they are carried when any row has them. Padding is masked out, so the id
    used does not matter; 0 exists in every vocabulary.
    """
    shape = (len(rows), max(len(ids) for ids in rows))
    input_ids = np.zeros(shape, np.int64)
    attention_mask = np.zeros(shape, np.int64)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    if all(of_row is None for of_row in types):
        return TokenBatch(input_ids, attention_mask)
    token_type_ids = np.zeros(shape, np.int64)
    for row, of_row in enumerate(types):
        if of_row is not None:
            token_type_ids[row, : len(of_row)] = of_row
    return TokenBatch(input_ids, attention_mask, token_type_ids)
