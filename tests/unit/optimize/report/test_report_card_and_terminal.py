from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import pytest
from report_samples import classifier_versions, embedding_versions
from rich.console import Console

from tremplin.optimize.report.card import as_json, model_card
from tremplin.optimize.report.terminal import print_report
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Speed

Sample = tuple[list[Manifest], dict[str, list[Speed]]]


def printed(manifests: list[Manifest], speeds: dict[str, list[Speed]], *, width: int = 80) -> str:
    stream = StringIO()
    print_report(Console(file=stream, width=width, color_system=None), manifests, speeds)
    return stream.getvalue().replace("\u00a0", " ").replace("\u202f", " ")


@pytest.mark.parametrize("make", [embedding_versions, classifier_versions])
@pytest.mark.parametrize("width", [80, 120, 40])
def test_terminal_keeps_to_its_width(make: Callable[[], Sample], width: int) -> None:
    manifests, speeds = make()
    text = printed(manifests, speeds, width=width)
    assert max(map(len, text.splitlines())) <= width
    for manifest in manifests:
        assert manifest.version in text


def test_terminal_at_80_columns_shows_what_counts() -> None:
    text = printed(*classifier_versions())
    lines = text.splitlines()
    assert lines[0].startswith("2-int8 is 3.8 times smaller and 2.5 times faster than 1-fp32")
    assert len(lines) < 60
    header = next(line for line in lines if "1-fp32" in line and "3-student-int8" in line)
    assert header.split() == ["1-fp32", "2-int8", "3-student-int8"]
    for words in ("91.0 MB", "480 texts/s", "[466, 490]", "96.2 %", "reference", "Both of its bounds hold."):
        assert words in text


def test_terminal_shows_markup_as_text() -> None:
    manifests, speeds = embedding_versions()
    hostile = replace(manifests[0], version="[red]x[/red]")
    assert "[red]x[/red]" in printed([hostile], {})
    assert "There is no version" in printed([], speeds)


def test_card_is_markdown_with_every_section() -> None:
    manifests, speeds = embedding_versions()
    card = model_card(manifests[1], speeds[manifests[1].ref])
    assert card.startswith("# minilm@2-int8\n")
    for words in (
        "## What it is",
        "## Bounds",
        "## Versions side by side",
        "## Schemes the optimiser tried",
        "## How quality was measured",
        "## Machines",
        "## Lineage",
        "All 4 of its bounds hold.",
        "✓ holds",
        "384 dimensions",
    ):
        assert words in card
    for block in card.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1


def test_card_escapes_markup() -> None:
    manifests, _ = embedding_versions()
    hostile = replace(manifests[0], quality=replace(manifests[0].quality, data="a|b\n# <b>c</b> `d`"))
    card = model_card(hostile, [])
    assert "a\\|b \\# \\<b\\>c\\</b\\> \\`d\\`" in card


def test_json_holds_everything_and_is_stable() -> None:
    manifests, speeds = classifier_versions()
    text = as_json(manifests, speeds, command="tremplin report support --json")
    assert text == as_json(manifests, speeds, command="tremplin report support --json")
    found = json.loads(text)
    assert found["chosen"] == "support@2-int8"
    assert found["baseline"] == "support@1-fp32"
    assert found["command"] == "tremplin report support --json"
    assert [version["ref"] for version in found["versions"]] == [manifest.ref for manifest in manifests]
    student = found["versions"][2]
    assert student["verdicts"][0]["outcome"] == "not proven"
    assert student["manifest"]["quality"]["metrics"][0]["n"] == 1440
    assert student["speeds"][0]["machine"]["cores_from"] == "cgroup quota"
    assert json.loads(as_json([], {}))["chosen"] is None
