"""A study in Markdown, as JSON, in a terminal, and the command that writes them."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from study_samples import BROKEN, COMMAND, study_document, write_run

from tests.live_server import run_command
from tremplin.errors import BadInput
from tremplin.optimize.report.study_card import print_study, study_card, study_json, study_markdown
from tremplin.optimize.report.study_file import StudyFile, read_study


@pytest.fixture
def study(tmp_path: Path) -> StudyFile:
    return read_study(write_run(tmp_path))


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def check_tables(markdown: str) -> None:
    for block in markdown.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1


def test_front_in_markdown(study: StudyFile) -> None:
    text = plain(study_markdown(study))
    assert text.startswith("# balanced is 4.1 times faster at 8.21 MB and loses 0.23 points (at most 0.44)\n")
    assert "| Version | Verdict | Accuracy | Loss, points | Faster | p50 | Size | Front |" in text
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and "MB" in line]
    assert rows == ["| tiny", "| balanced (chosen)", "| reference"]
    assert "- **tiny**: it may lose" in text
    assert "- **static-8**: static: a width of 8" in text
    assert COMMAND in text
    check_tables(text)


def test_card_of_one_version(study: StudyFile) -> None:
    card = plain(study_card(study, "tiny"))
    assert card.startswith("# banking: tiny\n\ntiny is 47 times faster at 2.31 MB and loses 4.65 points")
    for words in (
        "✗ 1 class broken. It fails because it may lose",
        "By class: 16 of 16 classes lose; 1 class broken.",
        "## What it is",
        "## Versions side by side",
        "## What tiny loses by class, worst first: the worst 10, 6 more lose less",
        "| pin\\_blocked (✗ broken) | 45.31",
        "## Loss in points by length and language",
        "## The commonest confusions",
        "## Steps",
        "## Where the numbers come from",
        "```yaml\nname: tiny\n",
        "- 12 training rows are also in banking-test.csv",
        COMMAND,
    ):
        assert words in card, words
    # Only this version and the reference.
    assert "| balanced" not in card
    check_tables(card)


def test_card_of_the_reference_has_no_verdict(study: StudyFile) -> None:
    card = study_card(study, "reference")
    assert "reference is what the others are judged against." in card
    assert "It fails" not in card


def test_markdown_is_escaped(study: StudyFile) -> None:
    card = study_card(study, "balanced")
    assert "<b>" not in card.replace("\\<b\\>", "")
    assert '\\<b\\>lost\\</b\\> \\& "card" \\| \\`x\\`' in card


def test_a_recipe_cannot_close_its_fence(tmp_path: Path) -> None:
    document = study_document()
    document["entries"][1]["recipe"] = "name: x\n```\n# not a heading\n"
    card = study_card(read_study(write_run(tmp_path, document)), "balanced")
    assert "````yaml\nname: x\n```\n# not a heading\n````" in card


def test_a_version_that_is_not_there(study: StudyFile) -> None:
    with pytest.raises(BadInput, match="no version 'huge'; it has reference, balanced, tiny"):
        study_card(study, "huge")


def test_json_holds_the_finding_and_the_study(study: StudyFile) -> None:
    found = json.loads(study_json(study))
    assert found["chosen"] == "balanced"
    assert found["broken_classes"] == {"reference": [], "balanced": [], "tiny": [BROKEN]}
    assert found["run"]["command"] == COMMAND
    assert found["study"] == study_document()


def test_json_is_json_even_when_a_number_is_none(tmp_path: Path) -> None:
    document = study_document()
    document["entries"][0]["facts"]["loss"] = float("nan")
    text = study_json(read_study(write_run(tmp_path, document)))
    assert "NaN" not in text
    assert json.loads(text)["study"]["entries"][0]["facts"]["loss"] is None


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_keeps_to_its_width(study: StudyFile, width: int) -> None:
    stream = StringIO()
    print_study(Console(file=stream, width=width, color_system=None), study)
    text = plain(stream.getvalue())
    assert max(map(len, text.splitlines())) <= width
    said = re.sub(r"\s+", " ", text)
    for words in ("balanced is 4.1 times faster", f"'{BROKEN}' is broken", "static-8 could not be worked"):
        assert words in said


# -- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_run(tmp_path / "data" / "runs")
    return tmp_path / "data"


def test_the_command_prints_the_front_and_writes_the_page(data: Path) -> None:
    done = run_command("report", "--run", "banking", "--card", str(data / "card.md"), "--data", str(data))
    assert done.returncode == 0, done.stderr
    assert plain(done.stdout).startswith("balanced is 4.1 times faster")
    assert (data / "reports" / "banking-study.html").read_text("utf-8").startswith("<!doctype html>")
    # Without a name, of the version the study picks.
    assert (data / "card.md").read_text("utf-8").startswith("# banking: balanced")


def test_the_command_prints_json_and_markdown(data: Path) -> None:
    told = run_command("report", "--run", "banking", "--json", "--data", str(data))
    assert json.loads(told.stdout)["chosen"] == "balanced"
    out = data / "tiny.md"
    arguments = ("report", "tiny", "--run", "banking", "--format", "markdown", "--out", str(out))
    done = run_command(*arguments, "--data", str(data))
    assert (done.returncode, done.stdout) == (0, "")
    assert out.read_text("utf-8").startswith("# banking: tiny")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "nothing"), "no run 'nothing'"),
        (("--run", "../data"), "cannot name a run"),
        (("--run", "banking", "--format", "pdf"), "no format 'pdf'"),
        (("huge", "--run", "banking"), "no version 'huge'"),
        (("--out", "x.html"), "go with --run"),
    ],
)
def test_what_cannot_be_reported(data: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run_command("report", *arguments, "--data", str(data))
    assert done.returncode == 3
    assert said in done.stderr
