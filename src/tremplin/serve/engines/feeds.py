"""A batch as a graph's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tremplin.serve.engine import TokenBatch


def feeds_of(batch: TokenBatch, inputs: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return a batch as a graph's inputs; tokens are of type 0 unless the batch says otherwise."""
    feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if "token_type_ids" in inputs:
        types = batch.token_type_ids
        feeds["token_type_ids"] = np.zeros_like(batch.input_ids) if types is None else types
    return feeds
