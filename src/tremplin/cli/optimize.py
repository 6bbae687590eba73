"""``tremplin optimize``: smaller, faster versions within their quality bound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tremplin.cli.options import Data, Json, Threads

if TYPE_CHECKING:
    from tremplin.config import Settings

LABELLED = "Recipes (with --labelled or --unlabelled)"


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
    labelled: Annotated[
        Path | None,
        typer.Option(help="Labelled texts: train, shrink and compare classifiers.", rich_help_panel=LABELLED),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the run and of the model it publishes.", rich_help_panel=LABELLED)
    ] = "",
    test: Annotated[
        Path | None, typer.Option(help="Held-out texts to report on.", rich_help_panel=LABELLED)
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Held-out texts to choose on.", rich_help_panel=LABELLED)
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="Further texts, which the teacher labels; alone: make students of an encoder.",
            rich_help_panel=LABELLED,
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="Queries with their relevant passages, to judge encoders on.", rich_help_panel=LABELLED),
    ] = None,
    passages: Annotated[
        Path | None, typer.Option(help="What the queries search in.", rich_help_panel=LABELLED)
    ] = None,
    out_of_scope: Annotated[
        Path | None, typer.Option(help="Texts no label fits, to report on.", rich_help_panel=LABELLED)
    ] = None,
    recipes: Annotated[
        Path | None, typer.Option(help="YAML with your own recipes.", rich_help_panel=LABELLED)
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Try shapes of students for --budget.", rich_help_panel=LABELLED)
    ] = False,
    budget: Annotated[str, typer.Option(help="Time for --search.", rich_help_panel=LABELLED)] = "15m",
    slo: Annotated[
        str,
        typer.Option(help="Pick by 'p95<=20ms,rate>=200/s,loss<=0.5pt,memory<=200MB'.", rich_help_panel=LABELLED),
    ] = "",
    allowed_loss: Annotated[
        float, typer.Option(min=0, help="Points a version may lose (95 % bound).", rich_help_panel=LABELLED)
    ] = 0.6,
    text_column: Annotated[str, typer.Option(help="Name of the text column.", rich_help_panel=LABELLED)] = "text",
    label_column: Annotated[
        str, typer.Option(help="Name of the label column.", rich_help_panel=LABELLED)
    ] = "label",
    no_publish: Annotated[
        bool, typer.Option("--no-publish", help="Compare only; publish nothing.", rich_help_panel=LABELLED)
    ] = False,
    seed: Annotated[int, typer.Option(help="Of splits, training and calibration.")] = 0,
    threads: Threads = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make smaller, faster versions: int8 of one version, or, with --labelled, a front of trained students."""
    from tremplin.config import read_settings
    from tremplin.errors import BadInput

    settings = read_settings(data=data, threads=threads)
    if (queries is None) != (passages is None):
        raise BadInput("--queries and --passages go together; give both or none.")
    if labelled is None and unlabelled is None:
        if recipes or search or slo or out_of_scope or queries:
            raise BadInput(
                "--recipes, --search, --slo, --out-of-scope and --queries need --labelled (or --unlabelled)."
            )
        _schemes(settings, version, texts, scheme, bound, full=full, seed=seed, json=json)
        return
    from tremplin.cli.study import StudyOrder, study

    study(
        settings,
        StudyOrder(
            version, labelled, name, test, validation, unlabelled, out_of_scope, queries, passages, recipes,
            search, budget, slo, allowed_loss, text_column, label_column, publishes=not no_publish, seed=seed,
        ),
        json=json,
    )  # fmt: skip


def _schemes(
    settings: Settings,
    version: str,
    texts: Path | None,
    scheme: list[str] | None,
    bound: list[str] | None,
    *,
    full: bool,
    seed: int,
    json: bool,
) -> None:
    """Try the int8 schemes on a version, publish the best, say why the others lost."""
    from tremplin.cli.exit_codes import exit_code
    from tremplin.cli.show import out, print_json, progress_bar
    from tremplin.errors import BadInput, NotServable
    from tremplin.machine import read_machine
    from tremplin.optimize.measure import FULL, QUICK
    from tremplin.optimize.optimiser import SCHEMES, Optimisation, float_parent, optimise
    from tremplin.optimize.quality import read_bound
    from tremplin.optimize.texts import bundled_texts, texts_from
    from tremplin.wiring import open_registry, threads_of

    if unknown := set(scheme or ()) - set(SCHEMES):
        raise BadInput(f"There is no scheme {min(unknown)!r}; choose among {', '.join(SCHEMES)}.")
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
