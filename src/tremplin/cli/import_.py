"""``tremplin import``: a checkpoint becomes a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tremplin.cli.options import Data, Json, Threads


def import_(
    source: Annotated[str, typer.Argument(help="A folder, a Hub id such as org/name, or 'bundled'.")],
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="from the source")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="embedding, sparse-embedding, classification, reranking, token-classification or "
            "question-answering.",
            show_default="from the source",
        ),
    ] = None,
    token_embeddings: Annotated[
        bool, typer.Option("--token-embeddings", help="Give a vector for each token as well.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Commit of the Hub repository.")] = None,
    threads: Threads = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Import a model into one ONNX graph, prove it equal to its source, publish it."""
    from tremplin.cli.show import out, print_json, progress_bar
    from tremplin.config import read_settings
    from tremplin.errors import BadInput
    from tremplin.machine import read_machine
    from tremplin.optimize.bundled import import_bundled
    from tremplin.optimize.importing import ImportedModel, import_model
    from tremplin.optimize.publish import import_and_publish
    from tremplin.registry.task import Task
    from tremplin.serve.engine import SERVED_OUTPUT
    from tremplin.wiring import open_registry, threads_of

    if task is not None and task not in list(Task):
        raise BadInput(f"There is no task {task!r}; choose among {', '.join(Task)}.")
    settings = read_settings(data=data, threads=threads)
    machine = read_machine()
    wanted = Task(task) if task else None

    def read(folder: Path) -> ImportedModel:
        if source == "bundled":
            return import_bundled(folder, token_embeddings=token_embeddings)
        return import_model(source, folder, task=wanted, revision=revision, token_embeddings=token_embeddings)

    with progress_bar("Import", quiet=json) as progress:
        manifest = import_and_publish(
            open_registry(settings), read, name or _name_of(source), machine,
            threads=threads_of(settings, machine), progress=progress,
        )  # fmt: skip
    if json:
        print_json({"version": manifest.ref, "task": manifest.interface.task, "notes": manifest.origin.notes})
        return
    parity = manifest.quality.metrics[0]
    out.print(f"Published {manifest.ref}: {manifest.origin.architecture}, {manifest.size_bytes / 1e6:.1f} MB")
    out.print(f"Parity    {parity.value:.1e} at most, over {parity.n} texts, with {manifest.quality.reference}")
    for note in manifest.origin.notes:
        out.print(f"Note      {note}", soft_wrap=True)
    if manifest.interface.task in SERVED_OUTPUT:
        verb = "optimize" if manifest.interface.task in (Task.EMBEDDING, Task.CLASSIFICATION) else "serve"
        out.print(f"Next      tremplin {verb} {manifest.model}")


def _name_of(source: str) -> str:
    """Return a model name made from a source: the last part, in lower case."""
    import re

    if source == "bundled":
        return "minilm"
    last = re.split(r"[\\/]", source.rstrip("\\/").partition("@")[0])[-1].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._")[:64] or "model"
