"""Elements of a static SVG picture, as strings.

The pictures obey the strictest content policy: no inline style, no script, no reference to anything.
A colour is the ``color`` of an element: a class names its role, an attribute gives the fallback, and
``currentColor`` paints with it. A style sheet that sets ``.plot-accent { color: ... }`` therefore wins over
the fallback for lines and areas alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from math import isfinite
from unicodedata import category, east_asian_width

WIDTH = 420.0
"""Units across a picture. Text of 13 units is then 11 px on a phone 390 px wide, 15 px at 480 px."""
WIDE = 640.0
FONT = 13.0
SMALL = 11.5
LINE = 17.0
MAX_TITLE_LINES = 3
BOLD = 1.07
"""How much wider bold text is."""

# Mid tones: at least 4:1 against white and against black, for pages that style none of the classes.
COLOURS = {
    "plot-accent": "#2f74d0",
    "plot-muted": "#757575",
    "plot-grid": "#757575",
    "plot-good": "#1d8348",
    "plot-bad": "#c2413b",
    "plot-series-1": "#2f74d0",
    "plot-series-2": "#b3591a",
    "plot-series-3": "#1d8348",
    "plot-series-4": "#8e5bc4",
    "plot-series-5": "#757575",
}

# What XML 1.0 cannot hold even when escaped; a lone surrogate cannot be encoded either.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# Not every white space: the no-break spaces between a number and its unit stay.
_BLANKS = re.compile("[ \t\n\r]+")


def clean(text: str) -> str:
    """Return ``text`` on one line, with what XML cannot hold replaced by U+FFFD."""
    return _BLANKS.sub(" ", _NOT_XML.sub("\ufffd", text)).strip(" ")


def tag(name: str, content: str = "", /, **attributes: str | float | None) -> str:
    """Return one element; ``content`` is markup, attribute values are escaped, None leaves one out.

    ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``. A known class brings its colour.
    """
    colour = COLOURS.get(str(attributes.get("class_", "")))
    if colour is not None:
        attributes.setdefault("color", colour)
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(x: float, y: float, words: str, /, **attributes: str | float | None) -> str:
    """Return a line of text in the current colour; ``words`` is plain text."""
    attributes.setdefault("fill", "currentColor")
    return tag("text", escape(clean(words)), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, /, **attributes: str | float | None) -> str:
    """Return a straight line in the current colour."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke="currentColor", **attributes)


def described(words: str) -> str:
    """Return a ``<title>``: the tooltip of the element it is put in."""
    return tag("title", escape(clean(words)))


def document(title: str, description: str, body: Iterable[str], *, height: float, width: float = WIDTH) -> str:
    """Return a whole picture; the page's style sheet decides how wide ``.plot`` gets."""
    return tag(
        "svg",
        described(title) + tag("desc", escape(clean(description))) + "".join(body),
        xmlns="http://www.w3.org/2000/svg",
        class_="plot plot-wide" if width > WIDTH else "plot",
        viewBox=f"0 0 {_attribute(width)} {_attribute(height)}",
        role="img",
        font_family="system-ui, sans-serif",
        font_size=FONT,
        fill="none",
    )


def heading(title: str, *, width: float = WIDTH) -> tuple[str, float]:
    """Return the title as text of at most three lines, and the height it takes."""
    lines = wrapped(title, width, FONT * BOLD)[:MAX_TITLE_LINES]
    drawn = [
        text(0, LINE * (row + 1) - 3, words, font_weight=600, class_="plot-title")
        for row, words in enumerate(lines)
    ]
    return "".join(drawn), LINE * len(lines) + 6


def wrapped(words: str, width: float, size: float = FONT) -> list[str]:
    """Return ``words`` cut into lines that fit; at least one, and a word too long for a line is cut."""
    lines = [""]
    for word in clean(words).split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if text_width(longer, size) <= width:
            lines[-1] = longer
        elif lines[-1]:
            lines.append(fit(word, width, size))
        else:
            lines[-1] = fit(word, width, size)
    return lines


def text_width(words: str, size: float = FONT) -> float:
    """Return about how wide a text is; fonts differ, so this errs on the wide side."""
    return size * sum(_character_width(character) for character in words)


def fit(words: str, width: float, size: float = FONT) -> str:
    """Return ``words`` cut with an ellipsis so that they fit into ``width``."""
    words = clean(words)
    if text_width(words, size) <= width:
        return words
    kept, room = 0, width - text_width("…", size)
    for character in words:
        room -= _character_width(character) * size
        if room < 0:
            break
        kept += 1
    return words[:kept].rstrip() + "…"


def fit_middle(words: str, width: float, size: float = FONT) -> str:
    """Return ``words`` with the middle left out so that they fit: recipes differ at their ends."""
    words = clean(words)
    if text_width(words, size) <= width:
        return words
    head = fit(words, width * 0.4, size)
    room, kept = width - text_width(head, size), len(words)
    for character in reversed(words):
        room -= _character_width(character) * size
        if room < 0:
            break
        kept -= 1
    return head + words[kept:].lstrip()


def _character_width(character: str) -> float:
    """Width in ems: wide for Chinese and the like, none for combining marks."""
    if category(character) in {"Mn", "Me", "Cf"}:
        return 0.0
    if character in " \u00a0\u202f.,;:'|ijl![]()":
        return 0.38
    return 1.05 if east_asian_width(character) in "WF" else 0.62


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return escape(clean(value), quote=True)
    if not isfinite(value):
        raise ValueError(f"a coordinate of {value} reached a picture: that is a bug in the chart")
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written
