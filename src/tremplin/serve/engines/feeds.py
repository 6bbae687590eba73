"""A batch as a graph's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import EngineFailed
from tremplin.serve.engine import TokenBatch


def feeds_of(batch: TokenBatch, inputs: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return a batch as a graph's inputs; tokens are of type 0 unless the batch says otherwise."""
    feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if "token_type_ids" in inputs:
        types = batch.token_type_ids
        feeds["token_type_ids"] = np.zeros_like(batch.input_ids) if types is None else types
    return feeds


def check_ids(runtime: str, batch: TokenBatch, vocab_size: int) -> None:
    """Raise EngineFailed for a token id that the word table has no row for, where a runtime does not check it."""
    if batch.input_ids.min() < 0 or batch.input_ids.max() >= vocab_size:
        raise EngineFailed(
            f"{runtime} could not run a batch: a token id is outside of the vocabulary of {vocab_size}."
        )
