"""The texts a version is calibrated and judged on: those that ship, or the user's own."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tremplin.errors import OptimizeFailed

MAX_TEXTS = 2_000
MAX_FILE_BYTES = 50_000_000


@dataclass(frozen=True)
class EvaluationTexts:
    """Two disjoint sets: ranges are learned on one, quality is judged on the other."""

    name: str
    sha256: str
    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    passages: tuple[str, ...]
    """What the evaluation texts search in for the retrieval agreement."""
    labels: tuple[str, ...] = ()
    """The right label of each evaluation text, when they are known."""


def bundled_texts(*, seed: int = 0) -> EvaluationTexts:
    """Return the sentences and passages written for this project, in English and French."""
    sentences = [row["text"] for row in _bundled("evaluation/sentences.jsonl")]
    pairs = _bundled("evaluation/retrieval.jsonl")
    articles = _bundled("help_articles.jsonl")
    passages = [pair["passage"] for pair in pairs] + [row["text"] for row in articles]
    return _split(
        "tremplin evaluation sentences",
        sentences,
        passages,
        seed,
        always_evaluated=[pair["query"] for pair in pairs],
    )


def texts_from(path: Path, *, seed: int = 0) -> EvaluationTexts:
    """Return the user's own texts: JSONL with a ``text`` (and perhaps a ``label``), or one text a line.

    Raises OptimizeFailed when the file cannot be read or holds fewer than 40 texts.
    """
    rows = _read_rows(path)
    if len(rows) < 40:
        raise OptimizeFailed(f"{path} holds {len(rows)} texts; at least 40 are needed to judge a version.")
    texts = [text for text, _ in rows[: 2 * MAX_TEXTS]]
    labels = [label for _, label in rows[: 2 * MAX_TEXTS]]
    known = all(labels)
    return _split(path.name, texts, texts[:500], seed, labels=labels if known else None)


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file, without labels: JSONL with a ``text``, or one text a line.

    Raises OptimizeFailed when the file cannot be read.
    """
    return [text for text, _ in _read_rows(path)]


def _read_rows(path: Path) -> list[tuple[str, str]]:
    """Return the texts of a file with their labels, "" where there is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise OptimizeFailed(f"{path} is larger than {MAX_FILE_BYTES:,} bytes; send a sample of it.")
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptimizeFailed(f"{path} cannot be read as UTF-8 text: {error}") from None
    return [_parse(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]


def _parse(line: str, path: Path, number: int) -> tuple[str, str]:
    if path.suffix not in (".jsonl", ".ndjson"):
        return line, ""
    try:
        row = json.loads(line)
        return str(row["text"]), str(row.get("label", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptimizeFailed(
            f'{path}, line {number}: expected a JSON object with a "text" member, such as {{"text": "..."}}.'
        ) from None


def _split(
    name: str,
    texts: Sequence[str],
    passages: Sequence[str],
    seed: int,
    *,
    labels: Sequence[str] | None = None,
    always_evaluated: Sequence[str] = (),
) -> EvaluationTexts:
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    cut = len(order) * 2 // 5
    evaluated = order[cut:][:MAX_TEXTS]
    digest = hashlib.sha256("\0".join([*texts, *passages]).encode("utf-8", "surrogatepass")).hexdigest()
    return EvaluationTexts(
        name=name,
        sha256=digest,
        calibration=tuple(texts[i] for i in order[:cut][:400]),
        evaluation=(*always_evaluated, *(texts[i] for i in evaluated)),
        passages=tuple(passages),
        labels=tuple(labels[i] for i in evaluated) if labels else (),
    )


def _bundled(name: str) -> list[dict[str, str]]:
    text = files("tremplin").joinpath("data", name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]
