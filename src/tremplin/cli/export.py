"""``tremplin export``: a version as files for another runtime, proven there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tremplin.cli.options import Data, Json


def export(
    version: Annotated[str, typer.Argument(help="model or model@version to export.")],
    to: Annotated[str, typer.Option("--to", help="openvino, litert, tensorrt or tvm.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder to make; refused when something is in it.")],
    half: Annotated[bool, typer.Option("--half", help="tensorrt: compute in 16-bit floats.")] = False,
    best_shape: Annotated[
        str | None,
        typer.Option(help="tensorrt: rows x tokens to be fastest for.", show_default="16x32"),
    ] = None,
    largest_shape: Annotated[
        str | None,
        typer.Option(help="tensorrt: rows x tokens of the largest batch.", show_default="64x512"),
    ] = None,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, help="tensorrt: MiB to try kernels with.", show_default="2048")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="tensorrt: check the graph, write the script that builds elsewhere.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Write a version for another runtime, run it there, keep it when it answers the same."""
    import shlex
    from dataclasses import asdict

    from tremplin.cli.show import out, print_json, progress_bar
    from tremplin.config import read_settings
    from tremplin.optimize.targets.catalogue import TargetOptions, target_of
    from tremplin.optimize.targets.export import check_folder, export_version
    from tremplin.optimize.texts import bundled_texts
    from tremplin.wiring import open_registry

    check_folder(folder)
    options = TargetOptions(half, best_shape, largest_shape, workspace_mib, dry_run)
    registry = open_registry(read_settings(data=data))
    manifest = registry.resolve(version)
    target = target_of(to, options, manifest.interface)
    command = ["tremplin", "export", manifest.ref, "--to", to, "--out", str(folder), *options.arguments]
    with progress_bar("Export", quiet=json) as progress:
        exported = export_version(
            registry, manifest, target, folder, bundled_texts(), command=shlex.join(command), progress=progress
        )
    if json:
        print_json(asdict(exported))
        return
    parity = exported.parity
    nearest = parity.nearest_to_its_limit
    out.print(
        f"Exported {exported.version} for {exported.target}, {exported.size_bytes / 1e6:.1f} MB: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    out.print(
        f"Parity    {nearest.name} within {nearest.max_difference:.1e} (allowed: {nearest.allowed:.1e}) over "
        f"{parity.n} texts, {parity.runtime} against {parity.reference}",
        highlight=False,
        soft_wrap=True,
    )
    if parity.label_agreement is not None:
        out.print(f"Labels    {parity.label_agreement:.1%} are the version's", highlight=False)
    for note in exported.notes:
        out.print(f"Note      {note}", highlight=False, soft_wrap=True)
