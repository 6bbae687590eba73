"""The report in a terminal: the finding, the versions, the verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tremplin.optimize.report.cells import Cell, Row, Table, Tone
from tremplin.optimize.report.compare import (
    Speeds,
    baseline_of,
    chosen_of,
    differences,
    main_bench,
    short_names,
)
from tremplin.optimize.report.findings import bounds_in_words, headline, remarks
from tremplin.optimize.report.tables import differences_table, versions_table
from tremplin.registry.manifest import Manifest

STYLES: dict[Tone, str] = {"": "", "good": "green", "bad": "red", "muted": "dim"}
LABEL_COLUMNS = 26
VERSION_COLUMNS = 18
"""Room a version's column needs: ``99.1 % [98.2, 99.6]`` breaks before its interval, never within."""


def print_report(console: Console, manifests: Sequence[Manifest], speeds: Speeds) -> None:
    """Print the finding, the versions side by side and the bounds; wide sets are cut into blocks that fit."""
    console.print(Text(headline(manifests, speeds), style="bold"))
    for remark in remarks(manifests, speeds):
        console.print(Text(remark))
    if not manifests:
        return
    bench, names = main_bench(manifests, speeds), short_names(manifests)
    at_once = max(1, (console.width - LABEL_COLUMNS) // VERSION_COLUMNS)
    for start in range(0, len(manifests), at_once):
        console.print()
        console.print(
            drawn(versions_table(manifests[start : start + at_once], bench, beside=manifests, brief=True))
        )
    console.print()
    for manifest in manifests:
        if manifest.quality.broken_bounds():
            console.print(Text.assemble((names[manifest.ref], "bold"), "  ", bounds_in_words(manifest.quality)))
    baseline, chosen = baseline_of(manifests), chosen_of(manifests, bench)
    if chosen is not baseline:
        # The table above holds every rate; here the noise question is asked of quality and cost.
        shown = [item for item in differences(baseline, chosen, bench) if not item.is_throughput]
        console.print()
        console.print(drawn(differences_table(shown, names[baseline.ref], names[chosen.ref])))


def drawn(table: Table) -> RichTable:
    """Return a table as the terminal shows it."""
    made = RichTable(
        title=Text(table.caption),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for word, is_number in zip(table.head, table.aligned, strict=True):
        made.add_column(Text(word), justify="right" if is_number else "left", overflow="fold")
    for row in table.rows:
        made.add_row(*_cells(row))
    return made


def _cells(row: Row) -> list[Text]:
    if row.is_group:
        return [Text(row.cells[0].text, style="bold")]
    return [_text(cell, is_first=index == 0) for index, cell in enumerate(row.cells)]


def _text(cell: Cell, *, is_first: bool) -> Text:
    """Return a cell; a note under a row's heading explains the metric and is left to the page."""
    text = Text(cell.text, style=STYLES[cell.tone])
    if cell.note and not is_first:
        text.append(f"\n{cell.note}", style="dim")
    return text
