"""``tremplin report``: the passports, or a study, printed and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tremplin.cli.options import Data, Json

if TYPE_CHECKING:
    from tremplin.config import Settings

STUDY = "A study (with --run)"
FORMATS = ("html", "json", "markdown")


def report(
    version: Annotated[
        str | None,
        typer.Argument(
            help="model or model@version; every model when not given. With --run a version of the study."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Where to write the page.", show_default="<data>/reports/MODEL.html")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Write a Markdown model card too.")] = None,
    run: Annotated[str, typer.Option(help="Report on this run of recipes instead.", rich_help_panel=STUDY)] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write.", rich_help_panel=STUDY, show_default="<data>/reports/RUN-study.html"
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="html, json or markdown; the last two are printed without --out.",
            rich_help_panel=STUDY,
            show_default="html",
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Print what was measured of a model's versions, or of a study, and write it as one self-contained page."""
    from tremplin.config import read_settings
    from tremplin.errors import BadInput

    settings = read_settings(data=data)
    if run:
        _study(settings, run, version, card, to or html, "json" if json else form or "html")
        return
    if to is not None or form is not None:
        raise BadInput(
            "--out and --format go with --run; a model's page is written with --html, its card with --card."
        )
    _passports(settings, version, html, card, json=json)


def _passports(
    settings: Settings, version: str | None, html: Path | None, card: Path | None, *, json: bool
) -> None:
    """Report on the versions of one model, or of all."""
    from json import loads

    from tremplin.cli.show import out, print_json
    from tremplin.errors import UnknownVersion
    from tremplin.optimize.report.card import as_json, model_card
    from tremplin.optimize.report.page import report_page
    from tremplin.optimize.report.terminal import print_report
    from tremplin.registry.files import write_atomically
    from tremplin.wiring import open_registry

    registry = open_registry(settings)
    names = [version] if version else registry.models()
    if not names:
        raise UnknownVersion(f"There is no model in {settings.data} yet. `tremplin up` makes the first ones.")
    documents = []
    for name in names:
        one = "@" in name
        manifests = [registry.resolve(name)] if one else registry.versions(registry.resolve(name).model)
        speeds = {manifest.ref: registry.speeds(manifest) for manifest in manifests}
        if json:
            documents.append(loads(as_json(manifests, speeds)))
            continue
        print_report(out, manifests, speeds)
        target = html or settings.data / "reports" / f"{name.replace('@', '-')}.html"
        page = report_page(manifests, speeds, command=f"tremplin report {name}")
        write_atomically(target, page.encode())
        out.print(f"Page      {target}", highlight=False, soft_wrap=True)
        if card is not None:
            write_atomically(card, model_card(manifests[-1], speeds[manifests[-1].ref]).encode())
            out.print(f"Card      {card}", highlight=False, soft_wrap=True)
    if json:
        print_json(documents[0] if version else documents)


def _study(
    settings: Settings, run: str, version: str | None, card: Path | None, to: Path | None, form: str
) -> None:
    """Report on a run's study; ``version`` names the one that a card is about."""
    from tremplin.cli.show import out
    from tremplin.errors import BadInput
    from tremplin.optimize.recipes.run_folder import RunFolder
    from tremplin.optimize.report.study_card import print_study, study_card, study_json, study_markdown
    from tremplin.optimize.report.study_file import read_study
    from tremplin.optimize.report.study_findings import shown_first
    from tremplin.optimize.report.study_page import study_page
    from tremplin.registry.files import write_atomically
    from tremplin.wiring import Places

    if form not in FORMATS:
        raise BadInput(f"There is no format {form!r}; choose among {', '.join(FORMATS)}.")
    study = read_study(RunFolder(Places(settings.data).runs, run).path)
    about = study.entry(version) if version else shown_first(study)
    if card is not None:
        write_atomically(card, study_card(study, about.name).encode())
    if form == "html":
        print_study(out, study)
        target = to or settings.data / "reports" / f"{run}-study.html"
        write_atomically(target, study_page(study).encode())
        out.print(f"Page      {target}", highlight=False, soft_wrap=True)
        if card is not None:
            out.print(f"Card      {card}", highlight=False, soft_wrap=True)
        return
    # Of one version, Markdown is its card; of the study, the front.
    markdown = study_card(study, about.name) if version else study_markdown(study)
    text = study_json(study) if form == "json" else markdown
    if to is not None:
        write_atomically(to, text.encode())
    else:
        typer.echo(text, nl=False)
