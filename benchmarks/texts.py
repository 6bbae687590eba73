"""The texts measured with: CLINC150 queries and SciFact abstracts where they are, else those that ship."""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def short_texts(count: int) -> tuple[str, list[str]]:
    """Return the name of the set and ``count`` short texts, about 12 tokens each."""
    path = SHARED / "clinc150" / "test.jsonl"
    if path.is_file():
        return "CLINC150 test queries", _sample(path.read_text("utf-8"), count)
    text = files("tremplin").joinpath("data", "support_desk", "train.jsonl").read_text("utf-8")
    return "support-desk sentences", _sample(text, count)


def long_texts(count: int) -> tuple[str, list[str]]:
    """Return the name of the set and ``count`` long texts, about 200 tokens each."""
    path = SHARED / "scifact" / "corpus.jsonl"
    if path.is_file():
        return "SciFact abstracts", _sample(path.read_text("utf-8"), count)
    text = files("tremplin").joinpath("data", "evaluation", "sentences.jsonl").read_text("utf-8")
    longest = sorted((json.loads(line)["text"] for line in text.splitlines()), key=len)[-40:]
    return "evaluation paragraphs", (longest * (count // 40 + 1))[:count]


def _sample(lines: str, count: int) -> list[str]:
    texts = [json.loads(line)["text"] for line in lines.splitlines()]
    random.Random(0).shuffle(texts)
    return texts[:count]
