"""What every command prints with: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from tremplin.progress import Progress as Report

# Where there is no terminal, such as in a log, progress is a line now and then.
LINE_EVERY_S = 5.0

out = Console()
err = Console(stderr=True)


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Report]:
    """Show a bar on standard error while something runs; nothing when ``quiet``."""
    if quiet:
        yield lambda step, share: None
        return
    columns = (
        SpinnerColumn(), TextColumn("[bold]{task.fields[title]}"), BarColumn(bar_width=24),
        TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=1.0, title=title)
        printed = 0.0

        def report(step: str, share: float) -> None:
            nonlocal printed
            bar.update(task, completed=share, description=step)
            if not err.is_terminal and time.monotonic() - printed >= LINE_EVERY_S:
                printed = time.monotonic()
                err.print(f"{title}: {step}", highlight=False)

        yield report


def print_json(value: object) -> None:
    """Print one JSON value on standard output."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=1, default=str)
    sys.stdout.write("\n")
