"""Pairs to tune an encoder on: JSONL with ``query``, ``positive`` and perhaps ``negative``."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tremplin.errors import TrainingRefused

MIN_PAIRS = 16
MAX_PAIRS = 500_000
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 1_000

Pair = tuple[str, str, str]
"""Query, passage that answers it, passage that does not ("" when there is none)."""


@dataclass(frozen=True)
class Pairs:
    """Pairs to learn from and pairs to choose on."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def read_pairs(path: Path, *, seed: int = 0) -> Pairs:
    """Return the pairs of a file, a tenth of them held out.

    Raises TrainingRefused, with the line, for one that is not a pair, or when there are fewer than MIN_PAIRS.
    """
    pairs: list[Pair] = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    pairs.append(_pair(line, path, number))
                if len(pairs) > MAX_PAIRS:
                    raise TrainingRefused(f"{path.name} holds more than {MAX_PAIRS:,} pairs; train on a sample.")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingRefused(f"{path} cannot be read as UTF-8 text: {error}") from None
    if len(pairs) < MIN_PAIRS:
        raise TrainingRefused(f"{path.name} holds {len(pairs)} pairs; at least {MIN_PAIRS} are needed.")
    random.Random(seed).shuffle(pairs)
    held = min(MAX_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(pairs))))
    return Pairs(tuple(pairs[held:]), tuple(pairs[:held]))


def _pair(line: str, path: Path, number: int) -> Pair:
    try:
        row = json.loads(line)
        pair: Pair = (row["query"], row["positive"], row.get("negative") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        pair = ("", "", "")
    if not all(isinstance(text, str) for text in pair) or not (pair[0] and pair[1]):
        raise TrainingRefused(
            f'{path.name}, line {number}: expected {{"query": "...", "positive": "..."}}, both texts not empty.'
        )
    return pair
