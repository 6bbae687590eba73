"""Labelled text from a CSV or JSONL file, read as a stream and refused with the line that is to blame.

No message holds a text: a training file is somebody's correspondence.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tremplin.optimize.head.rows import SHOWN, LabelledFile, Row, listed

MAX_ROWS = 200_000
"""Rows held at once; of a longer file so many are drawn at random."""
MAX_CLASSES = 1_000
MIN_ROWS_PER_CLASS = 5


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with one label each, in the order of the file."""

    source: str
    """The file's name, for messages and reports."""
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    """The label of each text."""
    label_names: tuple[str, ...]
    """The distinct labels, sorted."""
    sha256: str
    """Of the file's bytes."""
    langs: tuple[str, ...] | None = None
    """The language of each text, "" where unknown; None when the file has no such column."""
    notes: tuple[str, ...] = ()
    """What was set aside while reading."""

    def __len__(self) -> int:
        return len(self.texts)

    def targets(self, label_names: tuple[str, ...] | None = None) -> NDArray[np.int64]:
        """Return (n,): the position of each label in ``label_names``, by default the file's own."""
        number = {name: i for i, name in enumerate(label_names or self.label_names)}
        return np.array([number[label] for label in self.labels], np.int64)

    def rows(self, rows: NDArray[np.int64]) -> LabelledTexts:
        """Return the rows of these numbers; ``label_names`` stay those of the whole."""
        return replace(
            self,
            texts=tuple(self.texts[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
            langs=None if self.langs is None else tuple(self.langs[row] for row in rows),
        )


def read_labelled(
    path: Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    min_rows_per_class: int = MIN_ROWS_PER_CLASS,
) -> LabelledTexts:
    """Return the labelled texts of a file: CSV (comma, semicolon or tab) or JSONL, UTF-8 with or without BOM.

    A ``lang`` column is read when there is one. A text that comes again with the same label is dropped with
    a note; with another label it is refused, since nobody but the author can say which one is meant. Texts
    keep their spaces, labels lose those around them. Pass ``min_rows_per_class=0`` for a test file.

    Raises TrainingRefused, with the line and what to do, for anything that cannot train a head.
    """
    file = LabelledFile(path, text_column, label_column)
    rows, notes = _without_duplicates(file)
    _check_classes(file, Counter(row.label for row in rows), len(rows), min_rows_per_class)
    return LabelledTexts(
        source=path.name,
        texts=tuple(row.text for row in rows),
        labels=tuple(row.label for row in rows),
        label_names=tuple(sorted({row.label for row in rows})),
        sha256=file.digest.hexdigest(),
        langs=tuple(row.lang for row in rows) if any(row.lang for row in rows) else None,
        notes=notes,
    )


def _without_duplicates(file: LabelledFile) -> tuple[list[Row], tuple[str, ...]]:
    """Return the rows, the first of each text kept, and notes on those dropped.

    The file is read as a stream and at most MAX_ROWS rows are held, drawn at random when there are more (reservoir
    sampling: Vitter 1985). A repetition of a text that was not drawn is then not seen.
    """
    kept: list[Row] = []
    place: dict[str, int] = {}
    repeated = different = 0
    conflicts: list[tuple[int, int]] = []
    draw = random.Random(0)
    for row in file.rows():
        at = place.get(row.text)
        if at is not None:
            repeated += 1
            if kept[at].label != row.label:
                conflicts.append((kept[at].line, row.line))
            continue
        different += 1
        if len(kept) < MAX_ROWS:
            place[row.text] = len(kept)
            kept.append(row)
        elif (chosen := draw.randrange(different)) < MAX_ROWS:
            del place[kept[chosen].text]
            place[row.text] = chosen
            kept[chosen] = row
    if conflicts:
        pairs = ", ".join(f"{a} and {b}" for a, b in conflicts[:SHOWN])
        more = f" and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        file.refuse(f"the same text has two labels on lines {pairs}{more}. Keep the right one of each.")
    notes = []
    if repeated:
        notes.append(f"{repeated} rows repeat a text with the same label; the first of each was kept.")
    if different > len(kept):
        notes.append(f"{len(kept):,} of {different:,} rows were drawn at random; more are not held at once.")
    return sorted(kept, key=lambda row: row.line), tuple(notes)


def _check_classes(file: LabelledFile, rows_of: Counter[str], n_rows: int, min_rows: int) -> None:
    """Refuse labels that cannot train a head; a test file (``min_rows`` 0) may hold any."""
    if not rows_of:
        file.refuse("there is no row after the header.")
    if min_rows == 0:
        return
    if len(rows_of) < 2:
        file.refuse(f"all {n_rows} rows have the same label; a classifier needs at least 2 different ones.")
    if len(rows_of) > max(2, n_rows // 2):
        file.refuse(
            f"there are {len(rows_of)} different labels for {n_rows} rows. "
            f"Are the columns {file.text_column!r} and {file.label_column!r} swapped?"
        )
    if len(rows_of) > MAX_CLASSES:
        file.refuse(
            f"there are {len(rows_of):,} different labels, at most {MAX_CLASSES:,} were expected. "
            "Merge labels, or use search instead of classification."
        )
    small = sorted((n, label) for label, n in rows_of.items() if n < min_rows)
    if small:
        names = listed([f"{label!r} ({n})" for n, label in small])
        file.refuse(
            f"{len(small)} labels have fewer than {min_rows} different texts: {names}. "
            "Add texts to each, or merge it into another label."
        )
