"""What ``tremplin train`` does, by method."""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tremplin.config import Settings
from tremplin.machine import read_machine
from tremplin.progress import Progress
from tremplin.registry.manifest import Manifest
from tremplin.wiring import Places, open_registry, threads_of


@dataclass(frozen=True)
class TrainOrder:
    """What the command line asked for."""

    labelled: Path
    name: str
    method: str
    encoder: str
    test: Path | None
    validation: Path | None
    target_accuracy: float
    epochs: float | None
    learning_rate: float | None
    batch_rows: int | None
    lora_rank: int
    balanced: bool
    text_column: str
    label_column: str
    seed: int

    @property
    def given(self) -> dict[str, float | int]:
        """The options of a step that were given."""
        asked = {"epochs": self.epochs, "learning_rate": self.learning_rate, "batch_rows": self.batch_rows}
        return {name: value for name, value in asked.items() if value is not None}


def run_training(settings: Settings, order: TrainOrder, progress: Progress) -> Manifest:
    """Train as ordered and return what was published."""
    if order.method == "head":
        return _head(settings, order, progress)
    from tremplin.optimize.recipes.run_folder import RunFolder

    registry = open_registry(settings)
    source = registry.resolve(order.encoder)
    run = RunFolder(Places(settings.data).runs, f"train-{order.name}"[:64])
    command = "tremplin " + shlex.join(sys.argv[1:])
    with run.working(command, source.ref, progress) as told:
        manifest = _trained(settings, order, run.path, told)
    run.add_published((manifest.ref,))
    return manifest


def _trained(settings: Settings, order: TrainOrder, run: Path, progress: Progress) -> Manifest:
    from tremplin.optimize.recipes import train_one
    from tremplin.optimize.recipes.corpus import read_corpus
    from tremplin.optimize.recipes.steps import FewShot, FineTune, TrainOnPairs, Workshop

    registry, machine = open_registry(settings), read_machine()
    source = registry.resolve(order.encoder)
    threads = threads_of(settings, machine)
    if order.method == "words":
        from tremplin.optimize.recipes.token_file import read_labelled_words
        from tremplin.optimize.recipes.train_tokens import train_words

        step = FineTune(balanced=order.balanced, lora_rank=order.lora_rank, **order.given)  # type: ignore[arg-type]
        return train_words(
            registry, source, read_labelled_words(order.labelled), order.name, step,
            run=run, threads=machine.cores, seed=order.seed, progress=progress,
        )  # fmt: skip
    if order.method == "pairs":
        digest = hashlib.sha256(order.labelled.read_bytes()).hexdigest() if order.labelled.is_file() else ""
        corpus = train_one.no_corpus(order.labelled.name, digest)
        pairs = TrainOnPairs(file=str(order.labelled.resolve()), **order.given)  # type: ignore[arg-type]
        return train_one.train_encoder(
            registry, source, run, Workshop(corpus, machine.cores, order.seed, progress),
            train_one.Order(order.name, pairs, threads), machine,
        )  # fmt: skip
    corpus = read_corpus(
        order.labelled, validation=order.validation, test=order.test,
        text_column=order.text_column, label_column=order.label_column, seed=order.seed,
    )  # fmt: skip
    if order.method == "few-shot":
        chosen: FewShot | FineTune = FewShot(**order.given)  # type: ignore[arg-type]
    else:
        chosen = FineTune(balanced=order.balanced, lora_rank=order.lora_rank, **order.given)  # type: ignore[arg-type]
    return train_one.train_classifier(
        registry, source, run, Workshop(corpus, machine.cores, order.seed, progress),
        train_one.Order(order.name, chosen, threads, order.target_accuracy), machine,
    )  # fmt: skip


def _head(settings: Settings, order: TrainOrder, progress: Progress) -> Manifest:
    from tremplin.optimize.head.dataset import read_labelled
    from tremplin.optimize.train import HeadTraining, train_and_publish

    registry, machine = open_registry(settings), read_machine()
    read = partial(read_labelled, text_column=order.text_column, label_column=order.label_column)
    training = HeadTraining(
        read(order.labelled),
        order.labelled.name,
        test=read(order.test, min_rows_per_class=0) if order.test else None,
        target_accuracy=order.target_accuracy,
        class_weight="balanced" if order.balanced else None,
        seed=order.seed,
        threads=threads_of(settings, machine),
    )
    return train_and_publish(registry, registry.resolve(order.encoder), order.name, machine, training, progress)
