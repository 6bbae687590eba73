"""The labelled and unlabelled text a recipe works with: what is learned from, chosen on, and reported on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tremplin.errors import TrainingRefused
from tremplin.optimize.head.dataset import LabelledTexts, read_labelled
from tremplin.optimize.head.split import normalised, split
from tremplin.optimize.texts import read_texts

MIN_TEXTS = 200
"""Texts without labels that a student needs at least."""
MAX_HELD_OUT = 1_000


@dataclass(frozen=True)
class Corpus:
    """Texts by what they are for. No text is in two of the labelled parts."""

    name: str
    sha256: str
    train: LabelledTexts
    validation: LabelledTexts
    """Early stopping, temperatures and thresholds are chosen on it."""
    test: LabelledTexts
    """Looked at once for each version, for its passport."""
    unlabelled: tuple[str, ...] = ()
    """Further texts of the task, which a teacher labels."""
    out_of_scope: tuple[str, ...] = ()
    """Texts the task has no label for; a good version is unsure of them."""
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return self.train.label_names


def read_corpus(
    train: Path,
    *,
    validation: Path | None = None,
    test: Path | None = None,
    unlabelled: Path | None = None,
    out_of_scope: Path | None = None,
    text_column: str = "text",
    label_column: str = "label",
    min_rows_per_class: int = 5,
    seed: int = 0,
) -> Corpus:
    """Return a corpus from files; parts that are not given are split off the training file, by label.

    Rows of the training file whose text, case and punctuation aside, is in the test or validation file leave it,
    with a note. Raises TrainingRefused, with the line and what to do, for files that cannot be used.
    """

    def labelled(path: Path, least: int) -> LabelledTexts:
        return read_labelled(path, text_column=text_column, label_column=label_column, min_rows_per_class=least)

    everything = labelled(train, min_rows_per_class)
    tested = labelled(test, 0) if test else None
    validated = labelled(validation, 0) if validation else None
    notes = [*everything.notes, *(tested.notes if tested else ()), *(validated.notes if validated else ())]
    for part in (tested, validated):
        if part is not None:
            _check_labels(part, everything)
    if tested is not None and validated is not None:
        validated, lost = _without(validated, tested)
        notes += [f"{lost} validation rows are also in {tested.source}; they were left out."] if lost else []
    if validated is not None:
        everything, lost = _without(everything, validated)
        notes += [f"{lost} training rows are also in {validated.source}; they were left out."] if lost else []
    if tested is not None and validated is not None:
        learned, lost = _without(everything, tested)
        notes += [f"{lost} training rows are also in {tested.source}; they were left out."] if lost else []
    else:
        parts = split(everything, test=tested, seed=seed)
        notes += parts.notes
        if validated is None:
            validated, learned = everything.rows(parts.validation), everything.rows(parts.train)
        else:
            learned = everything.rows(parts.fitting)
        tested = tested if tested is not None else everything.rows(parts.test)
    more = tuple(read_texts(unlabelled)) if unlabelled else ()
    outside = tuple(read_texts(out_of_scope)) if out_of_scope else ()
    digest = hashlib.sha256()
    for texts in (learned.texts, validated.texts, tested.texts, more, outside):
        digest.update("\0".join(texts).encode("utf-8", "surrogatepass") + b"\1")
    digest.update("\0".join((*learned.labels, *validated.labels, *tested.labels)).encode())
    return Corpus(train.name, digest.hexdigest(), learned, validated, tested, more, outside, tuple(notes))


def read_text_corpus(path: Path, *, seed: int = 0) -> Corpus:
    """Return texts without labels: what an encoder's students learn from, are chosen on and reported on.

    Raises TrainingRefused when there are fewer than MIN_TEXTS different ones.
    """
    texts = list(unique(read_texts(path)))
    if len(texts) < MIN_TEXTS:
        raise TrainingRefused(f"{path.name} holds {len(texts)} different texts; at least {MIN_TEXTS} are needed.")
    random.Random(seed).shuffle(texts)
    held = min(MAX_HELD_OUT, len(texts) // 8)
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()

    def part(chosen: list[str]) -> LabelledTexts:
        return LabelledTexts(path.name, tuple(chosen), ("",) * len(chosen), (), digest)

    tested, validated, learned = texts[:held], texts[held : 2 * held], texts[2 * held :]
    return Corpus(path.name, digest, part(learned), part(validated), part(tested))


def _check_labels(part: LabelledTexts, train: LabelledTexts) -> None:
    unknown = sorted(set(part.label_names) - set(train.label_names))
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:5])
        raise TrainingRefused(
            f"{part.source}: {len(unknown)} labels are not in {train.source}: {shown}. "
            "Correct them, or add training texts for them."
        )


def _without(data: LabelledTexts, other: LabelledTexts) -> tuple[LabelledTexts, int]:
    """Return the rows whose text is not in ``other``, and how many were."""
    held = {normalised(text) for text in other.texts}
    kept = [row for row, text in enumerate(data.texts) if normalised(text) not in held]
    return data.rows(np.array(kept, np.int64)), len(data) - len(kept)


def unique(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts without repetitions, in order."""
    return tuple(dict.fromkeys(texts))
