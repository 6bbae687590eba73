"""Texts with a label for each word: JSONL with ``words`` and ``labels``, two lists of one length."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tremplin.errors import TrainingRefused
from tremplin.optimize.training.objectives import IGNORED

MIN_TEXTS = 20
MAX_TEXTS = 200_000
SHARES = (0.7, 0.15)
"""Of the texts that are learned from and chosen on; the rest is reported on."""


@dataclass(frozen=True)
class LabelledWords:
    """Texts as words, each word with its label."""

    source: str
    words: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    label_names: tuple[str, ...]
    """The distinct labels, ``O`` first when there is one."""

    def part(self, numbers: Sequence[int]) -> LabelledWords:
        """Return some of the texts; ``label_names`` stay those of the whole."""
        return LabelledWords(
            self.source,
            tuple(self.words[n] for n in numbers),
            tuple(self.labels[n] for n in numbers),
            self.label_names,
        )

    def split(self, *, seed: int) -> tuple[LabelledWords, LabelledWords, LabelledWords]:
        """Return texts to learn from, to choose on and to report on."""
        order = list(range(len(self.words)))
        random.Random(seed).shuffle(order)
        first, second = (round(share * len(order)) for share in (SHARES[0], sum(SHARES)))
        return self.part(order[:first]), self.part(order[first:second]), self.part(order[second:])


def read_labelled_words(path: Path) -> LabelledWords:
    """Return the texts of a file; raises TrainingRefused with the line that is to blame."""
    words: list[tuple[str, ...]] = []
    labels: list[tuple[str, ...]] = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    row = _row(line, path, number)
                    words.append(row[0])
                    labels.append(row[1])
                if len(words) > MAX_TEXTS:
                    raise TrainingRefused(f"{path.name} holds more than {MAX_TEXTS:,} texts; train on a sample.")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingRefused(f"{path} cannot be read as UTF-8 text: {error}") from None
    if len(words) < MIN_TEXTS:
        raise TrainingRefused(f"{path.name} holds {len(words)} texts; at least {MIN_TEXTS} are needed.")
    names = sorted({label for row in labels for label in row}, key=lambda label: (label != "O", label))
    if len(names) < 2:
        raise TrainingRefused(f"{path.name}: every word has the label {names[0]!r}; at least 2 are needed.")
    return LabelledWords(path.name, tuple(words), tuple(labels), tuple(names))


def token_targets(word_of_token: Sequence[int | None], labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return a target for each token: a word's label at its first piece, IGNORED elsewhere.

    ``word_of_token`` gives the word each token belongs to, None for special tokens.
    """
    number = {name: at for at, name in enumerate(names)}
    targets, before = [], None
    for word in word_of_token:
        is_first = word is not None and word != before
        targets.append(number[labels[word]] if is_first and word is not None else IGNORED)
        before = word
    return targets


def _row(line: str, path: Path, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        row = json.loads(line)
        words, labels = tuple(row["words"]), tuple(row["labels"])
    except (ValueError, KeyError, TypeError):
        words, labels = (), ()
    is_right = words and len(words) == len(labels) and all(isinstance(x, str) and x for x in (*words, *labels))
    if not is_right:
        raise TrainingRefused(
            f'{path.name}, line {number}: expected {{"words": ["..."], "labels": ["..."]}}, lists of one length '
            "whose entries are not empty."
        )
    return words, labels
