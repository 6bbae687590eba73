"""Cells, rows and tables: what the page, the model card and the terminal draw each in its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tremplin.optimize.report.numbers import NOT_MEASURED
from tremplin.optimize.report.verdict import Outcome

Tone = Literal["", "good", "bad", "muted"]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and a note in small print under it (an interval, a spread)."""

    text: str
    note: str = ""
    is_number: bool = False
    is_code: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    """One row; the first cell is its heading. A row of one cell heads a group."""

    cells: tuple[Cell, ...]

    @property
    def is_group(self) -> bool:
        """Return whether this row names the rows that follow."""
        return len(self.cells) == 1


@dataclass(frozen=True)
class Table:
    """A table with its caption; ``head`` has one word per column."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def aligned(self) -> tuple[bool, ...]:
        """Whether each column holds numbers, told from its first full row."""
        first = next((row for row in self.rows if not row.is_group), None)
        return tuple(cell.is_number for cell in first.cells) if first else (False,) * len(self.head)


def words(text: str, note: str = "", tone: Tone = "") -> Cell:
    """Return a cell of words."""
    return Cell(text, note, tone=tone)


def figure(text: str, note: str = "", tone: Tone = "") -> Cell:
    """Return a cell of numbers, right-aligned."""
    return Cell(text, note, is_number=True, tone="muted" if text == NOT_MEASURED else tone)


def code(text: str) -> Cell:
    """Return a cell to copy: a digest, a name."""
    return Cell(text or "—", is_code=bool(text))


def outcome_cell(outcome: Outcome) -> Cell:
    """Return a verdict as a word with a mark, so that colour is never alone."""
    marks: dict[Outcome, tuple[str, Tone]] = {
        Outcome.HOLDS: ("✓", "good"),
        Outcome.NOT_PROVEN: ("?", "bad"),
        Outcome.MISSED: ("✗", "bad"),
        Outcome.NOT_MEASURED: ("?", "bad"),
    }
    mark, tone = marks[outcome]
    return words(f"{mark} {outcome}", tone=tone)
