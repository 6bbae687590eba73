"""``tremplin train``: a classifier or a tuned encoder from your own texts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tremplin.cli.options import Data, Json, Threads


class Method(StrEnum):
    """What is trained."""

    HEAD = "head"
    FINE_TUNE = "fine-tune"
    FEW_SHOT = "few-shot"
    PAIRS = "pairs"
    WORDS = "words"


def train(
    labelled: Annotated[
        Path,
        typer.Argument(help="CSV or JSONL: text and label; query and positive (pairs); words and labels (words)."),
    ],
    name: Annotated[str, typer.Option(help="Name of the model that is made.")],
    method: Annotated[
        Method,
        typer.Option(
            help="head: on frozen features, in seconds. fine-tune: encoder and head. few-shot: a few texts a "
            "label. pairs: an encoder for search. words: a label for each word."
        ),
    ] = Method.HEAD,
    head: Annotated[bool, typer.Option("--head", help="Same as --method head.")] = False,
    encoder: Annotated[str, typer.Option(help="model or model@version of the encoder.")] = "minilm",
    test: Annotated[
        Path | None, typer.Option(help="Held-out file; a stratified part is held out when not given.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="File to choose on; split off when not given.")] = None,
    target_accuracy: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Accuracy to reach among the texts it answers.")
    ] = 0.9,
    epochs: Annotated[
        float | None, typer.Option(min=0.01, max=1000, help="Times the texts are gone through.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-8, max=1, help="Of the encoder.")] = None,
    batch_rows: Annotated[int | None, typer.Option(min=1, max=4096, help="Texts a step.")] = None,
    lora_rank: Annotated[
        int, typer.Option(min=0, max=1024, help="Train corrections of this rank instead of every weight.")
    ] = 0,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh rare labels up.")] = False,
    text_column: Annotated[str, typer.Option(help="Name of the text column.")] = "text",
    label_column: Annotated[str, typer.Option(help="Name of the label column.")] = "label",
    seed: Annotated[int, typer.Option(help="Of splits and training.")] = 0,
    threads: Threads = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Train on labelled text and publish encoder and head as one graph. A run that was stopped goes on."""
    from dataclasses import asdict

    from tremplin.cli.show import out, print_json, progress_bar
    from tremplin.cli.training import TrainOrder, run_training
    from tremplin.config import read_settings
    from tremplin.errors import BadInput

    if head and method is not Method.HEAD:
        raise BadInput(f"--head and --method {method} contradict each other; give one.")
    if method is Method.HEAD and (epochs or learning_rate or lora_rank or batch_rows):
        raise BadInput(
            "--epochs, --learning-rate, --batch-rows and --lora-rank need --method fine-tune or another."
        )
    settings = read_settings(data=data, threads=threads)
    order = TrainOrder(
        labelled, name, method.value, encoder, test, validation, target_accuracy, epochs, learning_rate,
        batch_rows, lora_rank, balanced, text_column, label_column, seed,
    )  # fmt: skip
    with progress_bar("Train", quiet=json) as progress:
        manifest = run_training(settings, order, progress)
    if json:
        print_json(
            {
                "version": manifest.ref,
                "metrics": [asdict(metric) for metric in manifest.quality.metrics],
                "notes": manifest.origin.notes,
            }
        )
        return
    labels = f", {len(manifest.interface.labels)} labels" if manifest.interface.labels else ""
    out.print(f"Published {manifest.ref} on {manifest.origin.source}{labels}")
    for metric in manifest.quality.metrics:
        out.print(f"  {metric.name:<28} {metric.value:.4f}  [{metric.low:.4f}, {metric.high:.4f}]  n={metric.n}")
    for note in manifest.origin.notes:
        out.print(f"Note      {note}", soft_wrap=True)
    out.print(
        f"Next      tremplin serve {manifest.model}, or tremplin optimize --labelled {labelled} --name {name}"
    )
