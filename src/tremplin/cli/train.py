"""``tremplin train --head``: a classifier on frozen features, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tremplin.cli.options import Data, Json, Threads


def train(
    labelled: Annotated[Path, typer.Argument(help="CSV or JSONL with the columns text and label.")],
    name: Annotated[str, typer.Option(help="Name of the classifier's model.")],
    head: Annotated[
        bool, typer.Option("--head", help="Train a head on frozen features (the one way there is today).")
    ] = True,
    encoder: Annotated[str, typer.Option(help="model or model@version of the encoder.")] = "minilm",
    test: Annotated[
        Path | None, typer.Option(help="Held-out file; a stratified part is held out when not given.")
    ] = None,
    target_accuracy: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Accuracy to reach among the texts it answers.")
    ] = 0.9,
    text_column: Annotated[str, typer.Option(help="Name of the text column.")] = "text",
    label_column: Annotated[str, typer.Option(help="Name of the label column.")] = "label",
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    threads: Threads = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Train a classifier on labelled text and publish encoder and head as one graph."""
    from dataclasses import asdict
    from functools import partial

    from tremplin.cli.show import out, print_json, progress_bar
    from tremplin.config import read_settings
    from tremplin.errors import BadInput
    from tremplin.machine import read_machine
    from tremplin.optimize.head.dataset import read_labelled
    from tremplin.optimize.train import HeadTraining, train_and_publish
    from tremplin.wiring import open_registry, threads_of

    if not head:
        raise BadInput("Only --head training exists today: it fits a classifier on frozen features.")
    settings = read_settings(data=data, threads=threads)
    registry = open_registry(settings)
    machine = read_machine()
    source = registry.resolve(encoder)
    read = partial(read_labelled, text_column=text_column, label_column=label_column)
    training = HeadTraining(
        read(labelled),
        labelled.name,
        test=read(test, min_rows_per_class=0) if test else None,
        target_accuracy=target_accuracy,
        seed=seed,
        threads=threads_of(settings, machine),
    )
    with progress_bar("Train", quiet=json) as progress:
        manifest = train_and_publish(registry, source, name, machine, training, progress)
    if json:
        print_json(
            {
                "version": manifest.ref,
                "metrics": [asdict(metric) for metric in manifest.quality.metrics],
                "notes": manifest.origin.notes,
            }
        )
        return
    out.print(f"Published {manifest.ref} on {source.ref}, {len(manifest.interface.labels)} labels")
    for metric in manifest.quality.metrics:
        out.print(f"  {metric.name:<28} {metric.value:.4f}  [{metric.low:.4f}, {metric.high:.4f}]  n={metric.n}")
    for note in manifest.origin.notes:
        out.print(f"Note      {note}", soft_wrap=True)
    out.print(f"Next      tremplin serve {source.model} {manifest.model}")
