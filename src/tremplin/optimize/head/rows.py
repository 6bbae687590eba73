"""A labelled file as a stream of checked rows: bytes -> lines -> CSV or JSONL -> rows.

No message holds a text: a training file is somebody's correspondence.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NoReturn

from tremplin.errors import TrainingRefused

MAX_LINE_BYTES = 10_000_000
MAX_LABEL_CHARACTERS = 100
"""A longer label is a text: the two columns are swapped."""
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
LANG_COLUMN = "lang"
SHOWN = 5
"""Names and line numbers in one message."""
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w.-]{0,30}")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One checked row and the line it begins on."""

    line: int
    text: str
    label: str
    lang: str


class LabelledFile:
    """One file as a stream of rows; ``refuse`` knows its name."""

    def __init__(self, path: Path, text_column: str, label_column: str) -> None:
        self.path = path
        self.text_column = text_column
        self.label_column = label_column
        self.digest = hashlib.sha256()

    def refuse(self, message: str, line: int | None = None) -> NoReturn:
        """Raise TrainingRefused at a line of this file."""
        place = self.path.name if line is None else f"{self.path.name}, line {line}"
        raise TrainingRefused(f"{place}: {message}")

    def rows(self) -> Iterator[Row]:
        """Yield the checked rows."""
        try:
            with self.path.open("rb") as stream:
                lines = self._lines(stream)
                first = next(lines, None)
                if first is None:
                    self.refuse("the file is empty.")
                is_jsonl = self.path.suffix in {".jsonl", ".ndjson"} or first.lstrip().startswith(("{", "["))
                yield from (_jsonl_rows if is_jsonl else _csv_rows)(self, first, lines)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self.refuse(f"the file cannot be read ({reason}). Check the path and its permissions.")

    def _lines(self, stream: BinaryIO) -> Iterator[str]:
        """Yield decoded lines with their ends; UTF-8 never has a line feed inside a character."""
        offset = 0
        for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(raw) > MAX_LINE_BYTES:
                self.refuse(
                    f"the line is longer than {MAX_LINE_BYTES // 1_000_000} MB. Write one row a line; this may be "
                    "JSON as one list, or no text at all.",
                    number,
                )
            self.digest.update(raw)
            body = raw.removeprefix(_BOM) if number == 1 else raw
            yield self._decoded(body, offset + len(raw) - len(body), number)
            offset += len(raw)

    def _decoded(self, raw: bytes, offset: int, line: int) -> str:
        """Return a line as text; NUL and what is not UTF-8 are refused."""
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            likely = likely_encoding(raw)
            self.refuse(
                f"byte {offset + error.start} of the file is not UTF-8; the file looks like {likely}. "
                f"Convert it: iconv -f {likely} -t UTF-8 {self.path.name} > utf8-{self.path.name}",
                line,
            )
        if "\0" in text:
            position = offset + raw.index(b"\0")
            hint = (
                f"the file looks like {likely_encoding(raw)}; save it as UTF-8"
                if raw.count(b"\0") > 1
                else "remove it"
            )
            self.refuse(f"byte {position} of the file is NUL, which no text holds; {hint}.", line)
        return text

    def row(self, line: int, text: str, label: str, lang: str) -> Row:
        """Return the row after its checks."""
        label = label.strip()
        if not text.strip():
            self.refuse(f"the text in {self.text_column!r} is empty. Fill it in or remove the row.", line)
        if not label:
            self.refuse(f"the label in {self.label_column!r} is empty. Fill it in or remove the row.", line)
        if "\0" in text or "\0" in label:
            self.refuse("the row holds a NUL character (\\u0000), which no text holds. Remove it.", line)
        if not (_is_unicode(text) and _is_unicode(label) and _is_unicode(lang)):
            self.refuse(
                "the row holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no character. "
                "The file was cut or converted badly: export it again.",
                line,
            )
        if len(label) > MAX_LABEL_CHARACTERS:
            self.refuse(
                f"the label has {len(label)} characters, at most {MAX_LABEL_CHARACTERS} were expected. "
                f"Are the columns {self.text_column!r} and {self.label_column!r} swapped?",
                line,
            )
        return Row(line, text, label, lang.strip())


def _csv_rows(file: LabelledFile, header: str, lines: Iterator[str]) -> Iterator[Row]:
    """Yield the rows of a CSV whose header line was read; the delimiter is the one that finds the columns."""
    names, delimiter = _columns(file, header)
    text_at, label_at = names.index(file.text_column), names.index(file.label_column)
    lang_at = names.index(LANG_COLUMN) if LANG_COLUMN in names else None
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 2
    try:
        for fields in reader:
            if fields and len(fields) != len(names):
                file.refuse(
                    f"the row has {len(fields)} columns, the header {len(names)}. "
                    f"A text that holds {DELIMITERS[delimiter]} must stand between double quotes.",
                    line,
                )
            if fields:
                yield file.row(line, fields[text_at], fields[label_at], "" if lang_at is None else fields[lang_at])
            line = reader.line_num + 2  # a quoted text may span lines; the header was the first
    except csv.Error as error:
        file.refuse(
            f"the row that begins here cannot be read as CSV ({error}). "
            'Look for a double quote that is not closed; inside a quoted text it is written twice ("").',
            line,
        )


def _columns(file: LabelledFile, header: str) -> tuple[list[str], str]:
    """Return the columns' names and the delimiter that separates them."""
    found: list[list[str]] = []
    for delimiter in DELIMITERS:
        try:
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
        except csv.Error:
            continue
        found.append(names)
        if file.text_column not in names or file.label_column not in names:
            continue
        twice = [name for name in (file.text_column, file.label_column) if names.count(name) > 1]
        if twice:
            file.refuse(f"the column {twice[0]!r} comes twice. Rename one.", 1)
        return names, delimiter
    _refuse_columns(file, max(found, key=len, default=[]), 1)


def _refuse_columns(file: LabelledFile, names: list[str], line: int) -> NoReturn:
    """Say which columns are missing and, when they look like names and not like a text, which there are."""
    missing = " and ".join(repr(name) for name in (file.text_column, file.label_column) if name not in names)
    expected = f"there is no column {missing or repr(file.text_column)}"
    if names and all(_COLUMN_NAME.fullmatch(name) for name in names):
        there = f"there are: {listed(names)}. Rename one, or name it with --text-column and --label-column."
    else:
        there = "the first line does not look like columns' names. Add a line `text,label` at the top."
    file.refuse(f"{expected}; {there}", line)


def _jsonl_rows(file: LabelledFile, first: str, lines: Iterator[str]) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object a line; blank lines are skipped."""
    for line, content in enumerate(chain([first], lines), 1):
        if content.strip():
            yield _jsonl_row(file, content, line)


def _jsonl_row(file: LabelledFile, content: str, line: int) -> Row:
    """Return the row that one line of JSON holds."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        column = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        file.refuse(
            f"this is not a JSON object on one line (it fails{column}). "
            f'Write one object a line: {{"{file.text_column}": "...", "{file.label_column}": "..."}}',
            line,
        )
    if not isinstance(value, dict):
        kind = "an array" if isinstance(value, list) else "a value"
        file.refuse(f"this is {kind}, an object was expected. Write one JSON object a line, without a list.", line)
    if file.text_column not in value or file.label_column not in value:
        _refuse_columns(file, list(value), line)
    text, label, lang = value[file.text_column], value[file.label_column], value.get(LANG_COLUMN)
    if not isinstance(text, str):
        file.refuse(f"{file.text_column!r} is {_kind(text)}, a string was expected.", line)
    if not isinstance(label, str | int | float):
        file.refuse(
            f"{file.label_column!r} is {_kind(label)}, one string was expected: a row has one label.", line
        )
    if not isinstance(lang, str | None):
        file.refuse(f"{LANG_COLUMN!r} is {_kind(lang)}, a string was expected.", line)
    return file.row(line, text, label if isinstance(label, str) else json.dumps(label), lang or "")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def likely_encoding(raw: bytes) -> str:
    """Return the name of the encoding that bytes which are not UTF-8 most likely have."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or raw.count(b"\0") > len(raw) // 4:
        return "UTF-16"
    # Windows-1252 leaves five bytes undefined; old Mac exports hit the range where it has C1 controls.
    return "ISO-8859-1" if any(byte in raw for byte in b"\x81\x8d\x8f\x90\x9d") else "WINDOWS-1252"


def _is_unicode(text: str) -> bool:
    """Return whether the text has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    kinds: dict[type, str] = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "a string")
