"""``tremplin``: the verbs are the course of a model."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from tremplin import __version__
from tremplin.cli.exit_codes import EXIT_CODES, exit_code
from tremplin.errors import TremplinError

__all__ = ["EXIT_CODES", "app", "exit_code", "run"]

app = typer.Typer(
    name="tremplin",
    help="Take an NLP model from prototype to production: import, train, optimise, prove, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _register() -> None:
    """Each command lives in its file; importing them is cheap, they import what is heavy when they run."""
    from tremplin.cli import bench, doctor, export, import_, keys, optimize, report, serve, train, up

    app.command("up")(up.up)
    app.command("import")(import_.import_)
    app.command("train")(train.train)
    app.command("optimize")(optimize.optimize)
    app.command("report")(report.report)
    app.command("export")(export.export)
    app.command("serve")(serve.serve)
    app.command("bench")(bench.bench)
    app.command("doctor")(doctor.doctor)
    app.add_typer(keys.app, name="keys")


def run() -> None:
    """Run a command; an error of ours is one sentence on standard error and an exit code."""
    _register()
    try:
        app()
    except TremplinError as error:
        _end(str(error), exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a file somebody named, or a disk; without a name it would be our bug
        place = error.filename or _place(error)
        _end(f"{place} cannot be used: {error.strerror or type(error).__name__}.", 1)
    except Exception as error:  # a bug of ours: name it, without a stack trace that could quote a text
        place = _place(error)
        _end(f"unexpected {type(error).__name__} at {place}. This is a bug: please report it.", 70)


def _end(sentence: str, code: int) -> NoReturn:
    from tremplin.monitor.logs import flush_logs

    flush_logs()
    print(f"tremplin: {sentence}", file=sys.stderr)
    sys.exit(code)


def _place(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}" if frame else "?"
