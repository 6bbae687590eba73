"""The texts measured with: CLINC150 queries and SciFact abstracts where they are, else those that ship."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# MIX: words of a text are log-normal, as lengths of what people send are. In tokens: p50 17, p90 94, p99 and above
# 256, where every server cuts; mean 36.
MIX_MEDIAN_WORDS = 14
MIX_SIGMA = 1.1
MIX_MOST_WORDS = 400
# A text of at most so many words is made of queries, a longer one of abstracts.
MIX_QUERY_WORDS = 30


def short_texts(count: int) -> tuple[str, list[str]]:
    """Return the name of the set and ``count`` short texts, about 12 tokens each."""
    path = SHARED / "clinc150" / "test.jsonl"
    if path.is_file():
        return "CLINC150 test queries", _sample(path.read_text("utf-8"), count)
    text = files("tremplin").joinpath("data", "support_desk", "train.jsonl").read_text("utf-8")
    return "support-desk sentences", _sample(text, count)


def distinct_short_texts() -> tuple[str, list[str]]:
    """Return every short text there is, each once: who is refused is known again by what he asks."""
    folder = SHARED / "clinc150"
    if not folder.is_dir():
        return short_texts(10**6)
    texts = [text for path in sorted(folder.glob("*.jsonl")) for text in _texts(path.read_text("utf-8"))]
    texts = list(dict.fromkeys(texts))
    random.Random(0).shuffle(texts)
    return "CLINC150 queries, all splits", texts


def long_texts(count: int) -> tuple[str, list[str]]:
    """Return the name of the set and ``count`` long texts, about 200 tokens each."""
    path = SHARED / "scifact" / "corpus.jsonl"
    if path.is_file():
        return "SciFact abstracts", _sample(path.read_text("utf-8"), count)
    text = files("tremplin").joinpath("data", "evaluation", "sentences.jsonl").read_text("utf-8")
    longest = sorted((json.loads(line)["text"] for line in text.splitlines()), key=len)[-40:]
    return "evaluation paragraphs", (longest * (count // 40 + 1))[:count]


def mixed_texts(count: int, seed: int = 0) -> tuple[str, list[str]]:
    """Return the name of the set and ``count`` texts of log-normal length, short and long ones cut and joined."""
    short_name, short = short_texts(2048)
    long_name, long = long_texts(512)
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        words = round(math.exp(draw.gauss(math.log(MIX_MEDIAN_WORDS), MIX_SIGMA)))
        words = min(max(words, 1), MIX_MOST_WORDS)
        texts.append(_cut(draw, short if words <= MIX_QUERY_WORDS else long, words))
    return f"{short_name} and {long_name}, {word_quantiles(texts)}", texts


def word_quantiles(texts: Sequence[str]) -> str:
    """Return the quantiles of the number of words, in words."""
    lengths = [len(text.split()) for text in texts]
    cuts = statistics.quantiles(lengths, n=100, method="inclusive")
    chosen = ", ".join(f"p{q} {cuts[q - 1]:.0f}" for q in (10, 50, 90, 99))
    return f"words {chosen}, most {max(lengths)}, mean {statistics.fmean(lengths):.0f}"


def _cut(draw: random.Random, source: Sequence[str], words: int) -> str:
    """Return exactly ``words`` words of texts drawn from ``source``, from a random place on."""
    found: list[str] = []
    while len(found) < words:
        text = draw.choice(source).split()
        start = draw.randrange(len(text)) if len(text) > words else 0
        found += text[start:]
    return " ".join(found[:words])


def _texts(lines: str) -> list[str]:
    return [json.loads(line)["text"] for line in lines.splitlines()]


def _sample(lines: str, count: int) -> list[str]:
    texts = _texts(lines)
    random.Random(0).shuffle(texts)
    return texts[:count]
