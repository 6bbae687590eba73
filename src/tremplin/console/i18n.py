"""The console's words in French and in English, and the numbers as each language writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "fr")
DEFAULT_LANGUAGE = "en"

NBSP = "\u00a0"
NARROW_NBSP = "\u202f"
MINUS = "\u2212"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Language:
    """One language: call it with a key to get the text."""

    code: str
    messages: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """Return the text of ``key`` with its values filled in; an unknown key raises KeyError, a bug."""
        text = self.messages[key]
        return text.format(**values) if values else text

    def plural(self, key: str, count: int, **values: object) -> str:
        """Return ``key.one`` or ``key.other``. French counts zero as one; English does not."""
        is_one = count in {0, 1} if self.code == "fr" else count == 1
        shown = self.number(count)
        return self(f"{key}.{'one' if is_one else 'other'}", count=shown, **values)

    def has(self, key: str) -> bool:
        """Return whether there is a text under this key."""
        return key in self.messages

    def or_else(self, key: str, otherwise: str) -> str:
        """Return the text of ``key``, or ``otherwise`` where the catalogue cannot know every name."""
        return self.messages.get(key, otherwise)

    # -- numbers -----------------------------------------------------------------------------------

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number: 1 234.5 in English, 1 234,5 in French.

        Thousands are parted by a narrow space in both (ISO 80000-1), as in the reports.
        """
        text = f"{value:,.{digits}f}"
        if float(f"{value:.{digits}f}") == 0:
            text = text.lstrip("-")
        point = "," if self.code == "fr" else "."
        return text.translate({ord(","): NARROW_NBSP, ord("."): point, ord("-"): MINUS})

    def plain(self, value: float) -> str:
        """Return a number as short as four figures allow, such as a bound somebody chose."""
        text = f"{value:.4g}".replace("-", MINUS)
        return text.replace(".", ",") if self.code == "fr" else text

    def precise(self, value: float) -> str:
        """Return a measure on the scale of 1 with four decimals, or as a power of ten when it is tiny."""
        if abs(value) >= 0.0005 or value == 0:
            return self.number(value, 4)
        digits, _, exponent = f"{value:.1e}".partition("e")
        power = str(int(exponent)).translate(SUPERSCRIPTS)
        return f"{self.number(float(digits), 1)}{NARROW_NBSP}×{NARROW_NBSP}10{power}"

    def significant(self, value: float, figures: int = 3) -> str:
        """Return a number with about this many significant figures and no exponent."""
        magnitude = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
        digits = max(0, figures - magnitude) if magnitude else figures
        return self.number(value, digits)

    def percent(self, share: float, digits: int = 1) -> str:
        """Return a share in [0, 1] as a percentage, its unit joined by a space that does not break."""
        return f"{self.number(100 * share, digits)}{NBSP}%"

    def signed(self, value: float, digits: int = 0) -> str:
        """Return a number that always shows its sign."""
        text = self.number(value, digits)
        return text if text.startswith(MINUS) else f"+{text}"

    def unit(self, value: float, unit: str, figures: int = 3) -> str:
        """Return a quantity with its unit."""
        return f"{self.significant(value, figures)}{NBSP}{unit}"

    def ms(self, value: float) -> str:
        """Return a duration given in milliseconds, in ms or, from one second on, in s."""
        if value >= 1000:
            return self.unit(value / 1000, "s")
        return self.unit(value, "ms", 2 if value < 1 else 3)

    def duration(self, seconds: float) -> str:
        """Return a time of work, such as 40 s, 6 min or 1 h 20 min."""
        if seconds < 59.5:
            return f"{round(seconds)}{NBSP}s"
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours}{NBSP}h{NBSP}{minutes:02d}{NBSP}min" if hours else f"{minutes}{NBSP}min"

    def size(self, size_bytes: float) -> str:
        """Return a number of bytes in decimal units (1 MB is 10^6 bytes)."""
        letter = "o" if self.code == "fr" else "B"
        value = float(size_bytes)
        for prefix in ("", "k", "M"):
            if value < 1000:
                return self.unit(value, prefix + letter)
            value /= 1000
        return self.unit(value, f"G{letter}")

    def moment(self, iso: str) -> str:
        """Return an ISO 8601 moment as a date and a time to the minute, in its own zone."""
        date, _, time = iso.partition("T")
        zone = "UTC" if iso.endswith(("+00:00", "Z")) else ""
        return f"{date} {time[:5]} {zone}".replace(" ", NBSP).strip(NBSP)


@cache
def language(code: str) -> Language:
    """Return one of the shipped languages."""
    text = files("tremplin.console").joinpath("locales", f"{code}.json").read_text(encoding="utf-8")
    return Language(code, json.loads(text))


def choose_language(asked: str | None, remembered: str | None, accepted: str | None) -> str:
    """Return the language's code: asked in the address, else remembered, else what the browser accepts."""
    for code in (asked, remembered):
        if code in LANGUAGES:
            return code
    return _best_accepted(accepted or "")


def _best_accepted(header: str) -> str:
    """Read an Accept-Language header (RFC 9110, 12.5.4); unreadable parts are skipped."""
    weighted = []
    for place, part in enumerate(header.split(",")[:20]):
        tag, _, parameter = part.partition(";")
        code = tag.strip().lower().split("-")[0]
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if code in LANGUAGES and weight > 0:
            weighted.append((-weight, place, code))
    return min(weighted)[2] if weighted else DEFAULT_LANGUAGE
