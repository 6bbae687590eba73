from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

import tremplin.console
from tremplin.console.i18n import LANGUAGES, choose_language, language
from tremplin.console.problems import EXPLAINED, UNPLANNED

FOLDER = Path(tremplin.console.__file__).parent
SOURCES = [*FOLDER.rglob("*.html"), *FOLDER.glob("*.py")]

# t("key") and language("key"); a key that ends in a dot is completed at run time.
CALL = re.compile(r"""\b(?:t|language)(?:\.(?:plural|or_else|has))?\(\s*["']([\w.-]+)["']""")
NARROW, NBSP = "\u202f", "\u00a0"


def used_keys() -> set[str]:
    return {key for source in SOURCES for key in CALL.findall(source.read_text(encoding="utf-8"))}


def test_the_catalogues_have_the_same_keys() -> None:
    english, french = (language(code).messages for code in LANGUAGES)
    assert list(english) == list(french)


def test_every_used_key_exists() -> None:
    keys = set(language("en").messages)
    used = used_keys()
    assert len(used) > 100
    missing = {
        key
        for key in used
        if not (
            key in keys
            or {f"{key}.one", f"{key}.other"} <= keys
            or (key.endswith(".") and any(known.startswith(key) for known in keys))
        )
    }
    assert not missing


def test_every_key_is_used() -> None:
    used = used_keys()
    prefixes = (*(key for key in used if key.endswith(".")), "chart.")
    known = {re.sub(r"\.(one|other)$", "", key) for key in language("en").messages}
    assert not {key for key in known if key not in used and not key.startswith(prefixes)}


@pytest.mark.parametrize("code", LANGUAGES)
def test_plurals_come_in_pairs(code: str) -> None:
    keys = set(language(code).messages)
    stems = {key.removesuffix(".one").removesuffix(".other") for key in keys if key.endswith((".one", ".other"))}
    assert all({f"{stem}.one", f"{stem}.other"} <= keys for stem in stems)


def test_translations_take_the_same_values() -> None:
    def fields(text: str) -> set[str | None]:
        return {name for _, name, _, _ in Formatter().parse(text) if name is not None}

    english, french = (language(code).messages for code in LANGUAGES)
    assert not {key for key in english if fields(english[key]) != fields(french[key])}


def test_french_is_typeset() -> None:
    for key, text in language("fr").messages.items():
        assert not re.search(rf"[^{NBSP}{NARROW}][;:!?»]", text), f"{key}: no-break space missing: {text}"
        assert not re.search(rf"«[^{NBSP}{NARROW}]", text), f"{key}: no-break space missing: {text}"
        assert "'" not in text, f"{key}: straight apostrophe: {text}"


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_exclamation(code: str) -> None:
    assert not [key for key, text in language(code).messages.items() if "!" in text]


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("kind", sorted(EXPLAINED | UNPLANNED))
def test_every_problem_is_explained(code: str, kind: str) -> None:
    assert language(code)(f"problem.{kind}.what")
    assert language(code)(f"problem.{kind}.do")


@pytest.mark.parametrize(
    ("asked", "remembered", "accepted", "expected"),
    [
        ("fr", "en", "en", "fr"),
        ("de", "fr", "en", "fr"),
        (None, "xx", "fr-CA,fr;q=0.9,en;q=0.8", "fr"),
        (None, None, "de,en;q=0.5,fr;q=0.4", "en"),
        (None, None, "en;q=0,fr;q=0.1", "fr"),
        (None, None, "*;;q=,;", "en"),
        (None, None, None, "en"),
    ],
)
def test_the_language_is_asked_remembered_or_accepted(
    asked: str | None, remembered: str | None, accepted: str | None, expected: str
) -> None:
    assert choose_language(asked, remembered, accepted) == expected


def test_numbers_are_written_as_each_language_does() -> None:
    en, fr = language("en"), language("fr")
    assert en.number(1234.5, 1) == f"1{NARROW}234.5"
    assert fr.number(1234.5, 1) == f"1{NARROW}234,5"
    assert en.number(-0.0001, 2) == "0.00"
    assert fr.percent(0.962) == f"96,2{NBSP}%"
    assert en.signed(3, 0) == "+3"
    assert en.signed(-3.2, 1) == "−3.2"
    assert fr.size(23_100_000) == f"23,1{NBSP}Mo"
    assert en.size(999) == f"999{NBSP}B"
    assert en.ms(0.413) == f"0.41{NBSP}ms"
    assert en.ms(12.44) == f"12.4{NBSP}ms"
    assert en.ms(1530) == f"1.53{NBSP}s"
    assert en.precise(0.9968) == "0.9968"
    assert fr.precise(3.539e-7) == f"3,5{NARROW}×{NARROW}10⁻⁷"
    assert en.plain(100 / 14) == "7.143"
    assert en.moment("2025-11-22T05:07:31+00:00") == f"2025-11-22{NBSP}05:07{NBSP}UTC"


def test_french_counts_zero_as_one() -> None:
    assert language("fr").plural("frame.engines", 0) == "0 moteur"
    assert language("en").plural("frame.engines", 0) == "0 engines"
