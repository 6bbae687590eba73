"""How well an encoder finds each query's passage, before and after it was tuned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tremplin.optimize.gate import loss_metric, paired_metric_loss
from tremplin.optimize.recipes.finish import answers_of
from tremplin.optimize.recipes.pair_file import Pair
from tremplin.optimize.recipes.stage import Stage
from tremplin.registry.passport import Metric, mean_metric


def rank_metrics(
    before: Stage, after: Stage, held_out: Sequence[Pair], *, threads: int, seed: int
) -> tuple[Metric, ...]:
    """Return the mean reciprocal rank of both on held-out pairs, and what was lost, in points.

    Each query's passage is looked for among all held-out passages.
    """
    ranks = [reciprocal_ranks(stage, held_out, threads=threads) for stage in (before, after)]
    loss = paired_metric_loss(ranks[0], ranks[1], seed=seed)
    return (
        loss_metric(loss, "reciprocal_rank_loss_points"),
        mean_metric("reciprocal_rank", ranks[1].tolist()),
        mean_metric("reciprocal_rank_before", ranks[0].tolist()),
    )


def reciprocal_ranks(stage: Stage, held_out: Sequence[Pair], *, threads: int) -> NDArray[np.float64]:
    """Return 1 / rank of each query's own passage, (queries,)."""
    queries, passages = (
        answers_of(stage.graph, stage, [pair[column] for pair in held_out], "embedding", threads=threads)
        for column in (0, 1)
    )
    similarity = queries @ passages.T
    own = np.diag(similarity)
    return np.asarray(1 / (1 + (similarity > own[:, None] + 1e-7).sum(axis=1)), np.float64)
