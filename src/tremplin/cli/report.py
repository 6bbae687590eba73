"""``tremplin report``: the passports, printed and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tremplin.cli.options import Data, Json


def report(
    version: Annotated[
        str | None, typer.Argument(help="model or model@version; every model when not given.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Where to write the page.", show_default="<data>/reports/MODEL.html")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Write a Markdown model card too.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Print what was measured of a model's versions and write it as one self-contained page."""
    from json import loads

    from tremplin.cli.show import out, print_json
    from tremplin.config import read_settings
    from tremplin.errors import UnknownVersion
    from tremplin.optimize.report.card import as_json, model_card
    from tremplin.optimize.report.page import report_page
    from tremplin.optimize.report.terminal import print_report
    from tremplin.registry.files import write_atomically
    from tremplin.wiring import open_registry

    settings = read_settings(data=data)
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
