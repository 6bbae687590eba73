"""Share labelled texts out between train, validation and test, without a text on two sides.

Two texts that differ in case, punctuation or spaces alone are one text here: they always travel together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tremplin.errors import TrainingRefused
from tremplin.optimize.head.dataset import LabelledTexts
from tremplin.optimize.head.rows import listed

Rows = NDArray[np.int64]

SHARES = (0.7, 0.15, 0.15)
"""Of train, validation and test."""
FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, ascending."""

    train: Rows
    validation: Rows
    test: Rows
    """Empty when a test file was given."""
    notes: tuple[str, ...] = ()

    @property
    def fitting(self) -> Rows:
        """Train and validation together, ascending: what a head with cross-fitted calibration learns from."""
        return np.sort(np.concatenate([self.train, self.validation]))


class _Characters(dict[int, str | None]):
    """A table for ``str.translate`` that drops punctuation, separators and controls, filled on demand."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        self[code] = None if unicodedata.category(character)[0] in "PZC" else character
        return self[code]


_CHARACTERS = _Characters()


def normalised(text: str) -> str:
    """Return the text without case, punctuation or spaces; a text of nothing else stays as it is.

    >>> normalised("  Où est ma COMMANDE ?! ")
    'oùestmacommande'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return folded.translate(_CHARACTERS) or folded


def text_groups(texts: Sequence[str]) -> Rows:
    """Return (n,): the same number for texts that are equal after normalisation, numbered by appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(normalised(text), len(numbers)) for text in texts], np.int64)


def split(
    data: LabelledTexts,
    *,
    test: LabelledTexts | None = None,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
) -> Split:
    """Return a stratified split of ``data``: each label in each part, in about the given shares.

    With a ``test`` file nothing is held out, and rows whose text is also in that file leave the training
    side, with a note. The same data, shares and seed give the same split.
    Raises TrainingRefused when a label has too few different texts to be in each part.
    """
    groups, targets = text_groups(data.texts), data.targets()
    usable = np.arange(len(data))
    notes = _conflicts(groups, targets)
    if test is not None:
        usable = _outside(data, test)
        overlap = len(data) - len(usable)
        if overlap:
            notes.append(f"{overlap} training rows are also in {test.source}; they were left out of training.")
        shares = (*shares[:2], 0.0)
    part_of = _part_of_groups(data, groups[usable], targets[usable], shares, seed)
    parts = np.array([part_of[group] for group in groups[usable].tolist()], np.int64)
    train, validation, held = (usable[parts == part] for part in range(3))
    return Split(train, validation, held, tuple(notes))


def fold_numbers(groups: Rows, targets: NDArray[np.int64], *, folds: int = FOLDS, seed: int = 0) -> Rows:
    """Return (n,): the fold that holds each row out; labels are spread evenly and groups stay whole."""
    random = np.random.default_rng([seed, 1])
    fold_of = np.empty(int(groups.max()) + 1, np.int64)
    following = 0
    for members in _groups_of_labels(groups, targets).values():
        for group in random.permutation(members):
            fold_of[group] = following % folds
            following += 1  # not from 0 for each label: the first fold would get the remainder of them all
    return np.asarray(fold_of[groups])


def _conflicts(groups: Rows, targets: NDArray[np.int64]) -> list[str]:
    """Return a note when texts that differ in case or punctuation alone have different labels."""
    pairs = np.unique(np.stack([groups, targets]), axis=1)
    n = len(pairs[0]) - len(np.unique(groups))
    return [f"{n} texts differ in case or punctuation alone from one with another label."] if n else []


def _outside(data: LabelledTexts, test: LabelledTexts) -> Rows:
    """Return the rows of ``data`` whose text is not in ``test``."""
    held = {normalised(text) for text in test.texts}
    return np.array([i for i, text in enumerate(data.texts) if normalised(text) not in held], np.int64)


def _part_of_groups(
    data: LabelledTexts,
    groups: Rows,
    targets: NDArray[np.int64],
    shares: tuple[float, float, float],
    seed: int,
) -> dict[int, int]:
    """Return the part (0, 1 or 2) of each group."""
    random = np.random.default_rng([seed, 0])
    n_parts = sum(share > 0 for share in shares)
    members_of = _groups_of_labels(groups, targets)
    small = [repr(name) for i, name in enumerate(data.label_names) if len(members_of.get(i, ())) < n_parts]
    if small:
        raise TrainingRefused(
            f"{data.source}: {len(small)} labels have fewer than {n_parts} texts that differ in more than "
            f"case and punctuation and are not in the test file: {listed(small)}. Each part needs "
            "one of its own: add texts to each."
        )
    part_of: dict[int, int] = {}
    for _, members in sorted(members_of.items()):
        parts = np.repeat(np.arange(3), _counts(len(members), shares))
        part_of.update(zip(random.permutation(members).tolist(), parts.tolist(), strict=True))
    return part_of


def _groups_of_labels(groups: Rows, targets: NDArray[np.int64]) -> dict[int, list[int]]:
    """Return the groups of each label; a group counts for the label of its first row."""
    numbers, first = np.unique(groups, return_index=True)
    members: dict[int, list[int]] = {}
    for group, label in zip(numbers.tolist(), targets[first].tolist(), strict=True):
        members.setdefault(label, []).append(group)
    return dict(sorted(members.items()))


def _counts(n: int, shares: tuple[float, float, float]) -> NDArray[np.int64]:
    """Return how many of ``n`` each part gets: by largest remainder, at least one unless its share is 0."""
    exact = np.array(shares) / sum(shares) * n
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: n - int(counts.sum())]] += 1
    for part, share in enumerate(shares):
        if share > 0 and counts[part] == 0:
            counts[int(np.argmax(counts))] -= 1
            counts[part] = 1
    return counts
