"""Queries, passages and which belong together: what search is measured on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import OptimizeFailed

NDCG = "ndcg_at_10"
DEPTH = 10


@dataclass(frozen=True)
class SearchSet:
    """What is looked for, where, and what should be found."""

    queries: tuple[str, ...]
    passages: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    """For each query the numbers of the passages that answer it."""


def read_search_set(queries: Path, passages: Path) -> SearchSet:
    """Return queries (JSONL: ``text``, and ``relevant``, ids) and passages (``id``, ``text``, perhaps ``title``).

    Raises OptimizeFailed for a line that is none, for an id without a passage, and when nothing is relevant.
    """
    found = _rows(passages)
    number = {str(row.get("id")): at for at, row in enumerate(found)}
    texts = tuple(" ".join(str(row[key]) for key in ("title", "text") if row.get(key)) for row in found)
    asked, answers = [], []
    for at, row in enumerate(_rows(queries), 1):
        ids = [str(one) for one in row.get("relevant") or ()]
        if missing := [one for one in ids if one not in number]:
            raise OptimizeFailed(
                f"{queries.name}, query {at}: there is no passage {missing[0]!r} in {passages.name}."
            )
        if ids:
            asked.append(str(row["text"]))
            answers.append(frozenset(number[one] for one in ids))
    if not asked:
        raise OptimizeFailed(f"{queries.name} names no relevant passage; search cannot be measured on it.")
    return SearchSet(tuple(asked), texts, tuple(answers))


def ndcg_at_10(
    queries: NDArray[np.float32], passages: NDArray[np.float32], relevant: Sequence[frozenset[int]]
) -> NDArray[np.float64]:
    """Return the nDCG of the first ten passages of each query, (queries,), with binary relevance.

    Vectors are (n, dim) of unit length. Source: Jarvelin and Kekalainen 2002.
    """
    gains = 1 / np.log2(np.arange(2, DEPTH + 2))
    scores = np.empty(len(queries))
    for start in range(0, len(queries), 256):
        similarity = queries[start : start + 256] @ passages.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :DEPTH]
        for at, row in enumerate(nearest, start):
            hits = np.array([passage in relevant[at] for passage in row.tolist()])
            scores[at] = (gains[: len(row)] * hits).sum() / gains[: min(DEPTH, len(relevant[at]))].sum()
    return scores


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                        raise OptimizeFailed(f'{path.name}, line {number}: expected an object with a "text".')
                    rows.append(row)
    except (OSError, ValueError) as error:
        raise OptimizeFailed(f"{path} cannot be read as JSONL: {error}") from None
    return rows
