"""``tremplin optimize``: a smaller, faster version within its quality bound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tremplin.cli.options import Data, Json, Threads


def optimize(
    version: Annotated[str, typer.Argument(help="model or model@version to start from.")] = "minilm",
    texts: Annotated[
        Path | None, typer.Option(help="Your own texts to calibrate and judge on: JSONL or one a line.")
    ] = None,
    scheme: Annotated[
        list[str] | None, typer.Option(help="Scheme to try; all of them when not given. Repeatable.")
    ] = None,
    bound: Annotated[
        list[str] | None,
        typer.Option(help="What the version must promise, such as 'cosine_mean>=0.995'. Repeatable."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Measure longer, over more shapes.")] = False,
    seed: Annotated[int, typer.Option(help="Of the split between calibration and evaluation texts.")] = 0,
    threads: Threads = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Try the int8 schemes on a version, publish the best, say why the others lost."""
    from tremplin.cli.exit_codes import exit_code
    from tremplin.cli.show import out, print_json, progress_bar
    from tremplin.config import read_settings
    from tremplin.errors import BadInput, NotServable
    from tremplin.machine import read_machine
    from tremplin.optimize.measure import FULL, QUICK
    from tremplin.optimize.optimiser import SCHEMES, Optimisation, float_parent, optimise
    from tremplin.optimize.quality import read_bound
    from tremplin.optimize.texts import bundled_texts, texts_from
    from tremplin.wiring import open_registry, threads_of

    if unknown := set(scheme or ()) - set(SCHEMES):
        raise BadInput(f"There is no scheme {min(unknown)!r}; choose among {', '.join(SCHEMES)}.")
    settings = read_settings(data=data, threads=threads)
    registry = open_registry(settings)
    machine = read_machine()
    source = float_parent(registry, version)
    options = Optimisation(
        schemes=tuple(scheme) if scheme else SCHEMES,
        bounds=tuple(read_bound(text) for text in bound) if bound else None,
        threads=threads_of(settings, machine),
        effort=FULL if full else QUICK,
        seed=seed,
    )
    judged_on = texts_from(texts, seed=seed) if texts else bundled_texts(seed=seed)
    with progress_bar("Optimise", quiet=json) as progress:
        manifest = optimise(registry, source, judged_on, machine, options, progress)
    broken = manifest.quality.broken_bounds()
    if json:
        print_json({"version": manifest.ref, "broken_bounds": broken, "candidates": manifest.report["candidates"]})
        raise typer.Exit(exit_code(NotServable("")) if broken else 0)
    out.print(f"Published {manifest.ref}, {manifest.size_bytes / 1e6:.1f} MB, from {source.ref}")
    for row in manifest.report["candidates"]:  # type: ignore[attr-defined]
        mark = "*" if row["chosen"] else " "
        out.print(
            f" {mark} {row['scheme']:<34} {row['texts_per_s']:8.0f} texts/s  {row['reason']}", highlight=False
        )
    for sentence in broken:
        out.print(f"[red]Bound     {sentence}: it will not be served unless forced by name.[/red]")
    out.print(f"Next      tremplin report {manifest.model}")
    if broken:
        raise typer.Exit(exit_code(NotServable("")))
