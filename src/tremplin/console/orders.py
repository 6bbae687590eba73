"""What a reader asks of a run: the fields of the form, checked, and the command line that does it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from tremplin.console.contexts import Refusal, RefusalKind
from tremplin.registry.manifest import is_name

DEFAULTS: Mapping[str, str] = {
    "model": "",
    "name": "",
    "way": "tiers",
    "minutes": "15",
    "allowed_loss": "0.6",
    "text_column": "text",
    "label_column": "label",
}
"""What the form holds before anybody wrote in it; the command line's own defaults."""

FILES = ("labelled", "test", "out_of_scope")
MAX_COLUMN_CHARACTERS = 60
MAX_MINUTES = 7 * 24 * 60
_NUMBER = re.compile(r"\d{1,6}(?:[.,]\d{1,6})?")


class Refused(Exception):  # not in the tree of errors.py: it never leaves the page that shows it
    """A run that is not started, with the reason as the page shows it."""

    def __init__(self, kind: RefusalKind, where: str = "", *, detail: str = "", **values: str) -> None:
        super().__init__(kind)
        self.refusal = Refusal(kind, where, detail, values)


@dataclass(frozen=True)
class RunOrder:
    """A run to start."""

    name: str
    model: str
    """``model@version``, fp32, to start from."""
    allowed_points: float = 0.6
    search_minutes: int | None = None
    """None works the tiers that ship."""
    text_column: str = "text"
    label_column: str = "label"
    files: Mapping[str, Path] = field(default_factory=dict)
    """By the name of the field they came in."""

    def arguments(self) -> tuple[str, ...]:
        """Return the command line without its program."""
        # Values are joined to their option: one that begins with a dash would be taken for an option.
        search = () if self.search_minutes is None else ("--search", f"--budget={self.search_minutes}m")
        return (
            "optimize",
            self.model,
            f"--name={self.name}",
            *(f"--{name.replace('_', '-')}={path}" for name, path in self.files.items()),
            f"--text-column={self.text_column}",
            f"--label-column={self.label_column}",
            f"--allowed-loss={self.allowed_points:g}",
            *search,
        )


def read_order(fields: Mapping[str, str], models: Sequence[str]) -> RunOrder:
    """Return what the form asks, files aside; raises Refused naming the field to correct."""
    given = {**DEFAULTS, **{name: value.strip() for name, value in fields.items() if value.strip()}}
    name, model = given["name"], given["model"]
    if model not in models:
        raise Refused("model_unknown", "model")
    if not is_name(name):
        raise Refused("name_invalid", "name")
    columns = [_column(given, column) for column in ("text_column", "label_column")]
    return RunOrder(
        name=name,
        model=model,
        allowed_points=_number(given["allowed_loss"], 100, "loss_invalid", "allowed_loss"),
        search_minutes=_minutes(given["minutes"]) if given["way"] == "search" else None,
        text_column=columns[0],
        label_column=columns[1],
    )


def _column(given: Mapping[str, str], where: str) -> str:
    if not given[where].isprintable() or len(given[where]) > MAX_COLUMN_CHARACTERS:
        raise Refused("column_invalid", where)
    return given[where]


def _minutes(text: str) -> int:
    minutes = _number(text, MAX_MINUTES, "minutes_invalid", "minutes")
    if minutes < 1 or minutes != int(minutes):
        raise Refused("minutes_invalid", "minutes")
    return int(minutes)


def _number(text: str, most: float, kind: RefusalKind, where: str) -> float:
    """Return a number written as either language writes it."""
    number = float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else float("inf")
    if not isfinite(number) or number > most:
        raise Refused(kind, where)
    return number
