"""A study in Markdown, as JSON and in a terminal: the front, and a model card for one of its versions."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import to_json
from rich.console import Console
from rich.text import Text

from tremplin.optimize.report.card import markdown_table, plain
from tremplin.optimize.report.cells import Row, Table, figure, words
from tremplin.optimize.report.study_file import StudyEntry, StudyFile
from tremplin.optimize.report.study_findings import (
    broken_classes,
    chosen_of,
    classes_in_words,
    entry_in_words,
    headline,
    losing,
    remarks,
    verdict_in_words,
)
from tremplin.optimize.report.study_page import all_notes, page_command
from tremplin.optimize.report.study_steps import facts_in_words, seconds_in_words, steps_of
from tremplin.optimize.report.study_tables import (
    class_losses_table,
    confused_pairs,
    confused_table,
    entry_table,
    environment_table,
    front_table,
    slices_table,
    study_versions_table,
)
from tremplin.optimize.report.terminal import drawn

WORST_CLASSES = 10


def study_card(study: StudyFile, name: str) -> str:
    """Return the model card of one version in Markdown; raises BadInput when the study has none of this name."""
    entry = study.entry(name)
    parts = [f"# {plain(f'{study.name}: {entry.name}')}", f"{plain(entry_in_words(entry))}."]
    parts += _gate(entry)
    tables = [entry_table(study, entry), _alone(study_versions_table(study), study, entry)]
    if losing(entry):
        tables.append(_worst(class_losses_table(entry)))
    if entry.slices:
        tables.append(_alone(slices_table(study), study, entry))
    if confused_pairs(entry):
        tables.append(confused_table(entry, study.reference))
    tables += [_steps(entry), environment_table(study)]
    parts += [markdown_table(table) for table in tables if table.rows]
    if entry.recipe.strip():
        parts += ["## Recipe", _fenced(entry.recipe, "yaml")]
    if notes := all_notes(study):
        parts += ["## Notes", "\n".join(f"- {plain(note)}" for note in notes)]
    parts += _again(study)
    return "\n\n".join(parts) + "\n"


def study_markdown(study: StudyFile) -> str:
    """Return the finding and the front in Markdown."""
    parts = [f"# {plain(headline(study))}", *(plain(remark) for remark in remarks(study))]
    parts.append(markdown_table(front_table(study)))
    if failed := [entry for entry in study.entries if entry.reasons]:
        told = [f"- **{plain(entry.name)}**: {plain('; '.join(entry.reasons))}" for entry in failed]
        parts += ["## Versions that fail", "\n".join(told)]
    if study.failures:
        told = [f"- **{plain(failure.name)}**: {plain(failure.reason)}" for failure in study.failures]
        parts += ["## Recipes that could not be worked", "\n".join(told)]
    parts += _again(study)
    return "\n\n".join(parts) + "\n"


def study_json(study: StudyFile) -> str:
    """Return the finding, the run and the whole of ``study.json`` as JSON; what is not a number is null."""
    chosen, run = chosen_of(study), study.run
    document: dict[str, Any] = {
        "headline": headline(study),
        "remarks": remarks(study),
        "chosen": chosen.name if chosen is not None else None,
        "verdicts": {entry.name: verdict_in_words(entry) for entry in study.entries},
        "broken_classes": {entry.name: [part.name for part in broken_classes(entry)] for entry in study.entries},
        "command": page_command(study),
        "run": run,
        "study": study.document,
    }
    return to_json(document, indent=1, inf_nan_mode="null").decode() + "\n"


def print_study(console: Console, study: StudyFile) -> None:
    """Print the finding, the front and why versions fail; what the page says besides is left to it."""
    console.print(Text(headline(study), style="bold"))
    for remark in remarks(study):
        console.print(Text(remark))
    console.print()
    console.print(drawn(front_table(study)))
    for entry in study.entries:
        for reason in entry.reasons:
            console.print(Text.assemble((entry.name, "bold"), "  ", reason))
    for failure in study.failures:
        console.print(Text.assemble((failure.name, "bold"), "  could not be worked: ", failure.reason))


def _gate(entry: StudyEntry) -> list[str]:
    if entry.is_reference:
        return []
    said = [f"{verdict_in_words(entry)}.", *(f"It fails because {reason}." for reason in entry.reasons)]
    said.append(f"By class: {classes_in_words(entry)}.")
    return [plain(" ".join(said))]


def _alone(table: Table, study: StudyFile, entry: StudyEntry) -> Table:
    """Return a table of versions with the columns of one and of the reference only."""
    wanted = [0, *(i for i, name in enumerate(table.head) if i and name in (entry.name, study.reference.name))]
    rows = [row if row.is_group else Row(tuple(row.cells[i] for i in wanted)) for row in table.rows]
    return Table(table.caption, tuple(table.head[i] for i in wanted), tuple(rows))


def _worst(table: Table) -> Table:
    left = len(table.rows) - WORST_CLASSES
    caption = f"{table.caption}: the worst {WORST_CLASSES}, {left} more lose less" if left > 0 else table.caption
    return Table(caption, table.head, table.rows[:WORST_CLASSES])


def _steps(entry: StudyEntry) -> Table:
    rows = [
        Row(
            (
                words(record.step),
                figure(seconds_in_words(record.seconds)),
                words(facts_in_words(record.facts) or "—"),
            )
        )
        for record in steps_of(entry)
    ]
    return Table("Steps", ("Step", "Time", "What it did"), tuple(rows))


def _again(study: StudyFile) -> list[str]:
    commands = [command for command in (study.command, page_command(study)) if command]
    return ["## Made again by", _fenced("\n".join(commands), "")]


def _fenced(content: str, language: str) -> str:
    """Return a block of code; its fence is longer than any in the content."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"
