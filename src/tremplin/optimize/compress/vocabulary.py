"""Vocabulary trimming: rows of the word table that a task's language never reads are dropped.

Half of a small encoder is its word table. What is dropped must not become unknown, so every piece of one
character stays: a word whose piece is gone falls apart into smaller pieces, down to letters, and is read as the
tokenizer reads any rare word. Text the training set never saw is therefore still read, only in more pieces;
``resegmented`` says how often that happens, and must be looked at on text from outside the task too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import PassFailed
from tremplin.optimize.network.network import Network

CONTINUES = "##"
SUPPORTED = ("WordPiece", "Unigram")


@dataclass(frozen=True)
class TrimmedVocabulary:
    """A tokenizer that knows fewer pieces, and which rows of the old table they are."""

    tokenizer: str
    """The new tokenizer.json."""
    kept: NDArray[np.int64]
    """(pieces,): old ids, ascending; the new id of a piece is its place here."""


def trim_vocabulary(tokenizer_json: str, texts: Iterable[str], *, words: int) -> TrimmedVocabulary:
    """Return the tokenizer cut to about ``words`` pieces: special tokens, letters, those of the texts, others.

    Pieces of the texts are kept by how often they come; what room is left goes to the rest by their old ids, which
    published vocabularies number by frequency in general text. Letters and special tokens are kept whatever
    ``words`` says. Raises PassFailed for a tokenizer of a kind that cannot be trimmed safely.
    """
    from tokenizers import Tokenizer

    tree: dict[str, Any] = json.loads(tokenizer_json)
    kind = tree.get("model", {}).get("type") or (
        "WordPiece" if "continuing_subword_prefix" in tree["model"] else "?"
    )
    if kind not in SUPPORTED:
        raise PassFailed(
            f"The tokenizer is of kind {kind}; only {' and '.join(SUPPORTED)} vocabularies can be trimmed safely. "
            "Leave trim-vocabulary out of the recipe."
        )
    pieces = _pieces(tree["model"], kind)
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts)):
        counts.update(encoding.ids)
    always = _always_kept(tree, pieces, kind)
    order = [number for number, _ in counts.most_common() if number not in always]
    order += [number for number in range(len(pieces)) if number not in counts and number not in always]
    kept = sorted(always.union(order[: max(0, words - len(always))]))
    return TrimmedVocabulary(json.dumps(_rebuilt(tree, pieces, kept, kind), ensure_ascii=False), np.array(kept))


def trim_network(network: Network, kept: NDArray[np.int64]) -> Network:
    """Return the network with these rows of its word table.

    Words get other numbers, so rows for pairs of them mean nothing any more: they are set to 0.
    """
    word = np.ascontiguousarray(network.weights.word[kept])
    spec = replace(network.spec, vocab_size=len(word))
    bigram = network.weights.bigram
    empty = None if bigram is None else np.zeros_like(bigram)
    return replace(network, spec=spec, weights=replace(network.weights, word=word, bigram=empty))


def resegmented(before: Path, after: Path, texts: Sequence[str]) -> float:
    """Return the share of texts that the trimmed tokenizer cuts into other pieces."""
    from tokenizers import Tokenizer

    pieces = [
        [encoding.tokens for encoding in Tokenizer.from_file(str(path)).encode_batch_fast(list(texts))]
        for path in (before, after)
    ]
    changed = [a != b for a, b in zip(pieces[0], pieces[1], strict=True)]
    return sum(changed) / max(len(texts), 1)


def _pieces(model: dict[str, Any], kind: str) -> list[str]:
    """Return the pieces by id."""
    if kind == "Unigram":
        return [piece for piece, _ in model["vocab"]]
    by_id = sorted((number, piece) for piece, number in model["vocab"].items())
    if [number for number, _ in by_id] != list(range(len(by_id))):
        raise PassFailed("The tokenizer's ids have gaps; it cannot be trimmed.")
    return [piece for _, piece in by_id]


def _always_kept(tree: dict[str, Any], pieces: list[str], kind: str) -> set[int]:
    """Return the ids of special tokens and of pieces of one character."""
    special = {entry["content"] for entry in tree.get("added_tokens", ())}
    if kind == "WordPiece":
        special.add(tree["model"].get("unk_token", "[UNK]"))
    kept = {number for number, piece in enumerate(pieces) if piece in special}
    for number, piece in enumerate(pieces):
        if len(piece.removeprefix(CONTINUES) if kind == "WordPiece" else piece) == 1:
            kept.add(number)
    if kind == "Unigram" and tree["model"].get("unk_id") is not None:
        kept.add(tree["model"]["unk_id"])
    return kept


def _rebuilt(tree: dict[str, Any], pieces: list[str], kept: list[int], kind: str) -> dict[str, Any]:
    """Return the tokenizer with new ids wherever it names one."""
    new_id = {pieces[old]: new for new, old in enumerate(kept)}
    model = dict(tree["model"])
    if kind == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in kept]
        if model.get("unk_id") is not None:
            model["unk_id"] = kept.index(model["unk_id"])
    else:
        model["vocab"] = new_id
    rebuilt = dict(tree) | {"model": model, "padding": None}
    rebuilt["added_tokens"] = [entry | {"id": new_id[entry["content"]]} for entry in tree.get("added_tokens", ())]
    processor = tree.get("post_processor")
    if isinstance(processor, dict):
        rebuilt["post_processor"] = _renumbered(processor, new_id)
    return rebuilt


def _renumbered(processor: dict[str, Any], new_id: dict[str, int]) -> dict[str, Any]:
    """Return a post-processor whose special tokens carry their new ids."""
    changed = dict(processor)
    if "processors" in processor:
        changed["processors"] = [_renumbered(inner, new_id) for inner in processor["processors"]]
    if isinstance(processor.get("special_tokens"), dict):
        changed["special_tokens"] = {
            name: entry | {"ids": [new_id[token] for token in entry["tokens"]]}
            for name, entry in processor["special_tokens"].items()
        }
    for end in ("sep", "cls"):
        if isinstance(processor.get(end), list):
            changed[end] = [processor[end][0], new_id[processor[end][0]]]
    return changed
