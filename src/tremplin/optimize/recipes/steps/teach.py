"""Steps that make a teacher: from labels, from a few of them, from pairs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import ConfigDict

from tremplin.errors import PassFailed
from tremplin.optimize.head.attach import attach_head
from tremplin.optimize.head.choose import choose_l2
from tremplin.optimize.head.logistic import ClassWeight, fit
from tremplin.optimize.head.split import fold_numbers, text_groups
from tremplin.optimize.network.to_graph import write_network
from tremplin.optimize.recipes.finish import answers_of
from tremplin.optimize.recipes.stage import Stage, StageRecord
from tremplin.optimize.recipes.steps.step import (
    STRICT,
    Workshop,
    lesson_of,
    named,
    need_torch,
    rows_of,
)
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE
from tremplin.registry.task import Task

if TYPE_CHECKING:
    from tremplin.optimize.training.fine_tune import FineTuning


@dataclass(frozen=True)
class FineTune:
    """Train encoder and head together on the labels."""

    name: ClassVar[str] = "fine-tune"
    makes_teacher: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: float = 3.0
    learning_rate: float = 3e-4
    head_learning_rate: float = 3e-3
    batch_rows: int = 64
    dropout: float = 0.1
    smoothing: float = 0.1
    balanced: bool = False
    patience: int = 2
    lora_rank: int = 0

    def tuning(self, seed: int) -> FineTuning:
        """Return the options as the training takes them, of sentences or of words."""
        from tremplin.optimize.training.fine_tune import FineTuning
        from tremplin.optimize.training.loop import Schedule

        schedule = Schedule(
            epochs=self.epochs, batch_rows=self.batch_rows, learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate, dropout=self.dropout, patience=self.patience, seed=seed,
        )  # fmt: skip
        return FineTuning(schedule, self.smoothing, self.balanced, self.lora_rank)

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write a fine-tuned classifier."""
        need_torch(workshop.threads)
        from tremplin.optimize.training.fine_tune import fine_tune

        corpus = workshop.corpus
        network, training = fine_tune(
            stage.network(),
            lesson_of(stage, corpus.train.texts, corpus.train.targets(corpus.labels)),
            lesson_of(stage, corpus.validation.texts, corpus.validation.targets(corpus.labels)),
            corpus.labels,
            self.tuning(workshop.seed),
            checkpoint=checkpoint,
            progress=workshop.progress,
        )
        write_network(network, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        interface = replace(stage.interface, task=Task.CLASSIFICATION, labels=corpus.labels)
        return StageRecord(
            named(self), interface, is_trainable=True, curve=training.as_json(), facts={"shape": network.shape}
        )


@dataclass(frozen=True)
class FrozenHead:
    """Fit a head on the encoder's vectors, which stay as they are."""

    name: ClassVar[str] = "head"
    makes_teacher: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    balanced: bool = False

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write encoder and head as one graph."""
        corpus = workshop.corpus
        texts = (*corpus.train.texts, *corpus.validation.texts)
        targets = np.concatenate([part.targets(corpus.labels) for part in (corpus.train, corpus.validation)])
        # By the served engine: the head meets what it will be given.
        features = answers_of(stage.graph, stage, texts, "embedding", threads=workshop.threads)
        weight: ClassWeight | None = "balanced" if self.balanced else None
        folds = fold_numbers(text_groups(texts), targets, seed=workshop.seed)
        choice = choose_l2(features, targets, len(corpus.labels), folds, class_weight=weight)
        head = fit(features, targets, len(corpus.labels), l2=choice.l2, class_weight=weight)
        attach_head(stage.graph, head, choice.temperature, corpus.labels, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        interface = replace(stage.interface, task=Task.CLASSIFICATION, labels=corpus.labels)
        return StageRecord(
            named(self), interface, is_trainable=True, facts={"l2": choice.l2, "temperature": choice.temperature}
        )


@dataclass(frozen=True)
class FewShot:
    """Teach the encoder which texts share a label, then fit a head: for a handful of texts a label."""

    name: ClassVar[str] = "few-shot"
    makes_teacher: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: float = 1.0
    learning_rate: float = 2e-5
    batch_rows: int = 16
    pairs_per_text: int = 20

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write a classifier on a tuned encoder."""
        need_torch(workshop.threads)
        from tremplin.optimize.training.loop import Schedule
        from tremplin.optimize.training.pairs import FewShot as Options
        from tremplin.optimize.training.pairs import train_few_shot

        schedule = Schedule(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_rows=self.batch_rows, patience=0,
            seed=workshop.seed,
        )  # fmt: skip
        corpus = workshop.corpus
        network, training = train_few_shot(
            stage.network(),
            rows_of(stage, corpus.train.texts),
            corpus.train.targets(corpus.labels),
            Options(schedule, self.pairs_per_text),
            checkpoint=checkpoint,
            progress=workshop.progress,
        )
        aside = out / "encoder"
        aside.mkdir()
        write_network(network, aside / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, aside / TOKENIZER_FILE)
        tuned = replace(stage, folder=aside)
        record = FrozenHead().run(tuned, workshop, out, checkpoint)
        shutil.rmtree(aside)
        return replace(record, step=named(self), curve=training.as_json())


@dataclass(frozen=True)
class TrainOnPairs:
    """Teach an encoder of sentences from labelled texts: two of one label are a pair."""

    name: ClassVar[str] = "pairs"
    makes_teacher: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    file: str = ""
    """JSONL with ``query`` and ``positive``, and perhaps ``negative``."""
    epochs: float = 2.0
    learning_rate: float = 5e-5
    batch_rows: int = 32
    scale: float = 20.0

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write an encoder tuned on pairs."""
        need_torch(workshop.threads)
        from tremplin.optimize.recipes.pair_file import read_pairs
        from tremplin.optimize.training.loop import Schedule
        from tremplin.optimize.training.pairs import PairRows, PairTraining, train_on_pairs

        if stage.interface.task is not Task.EMBEDDING:
            raise PassFailed(f"pairs tune an encoder; this stage does {stage.interface.task}.")
        pairs = read_pairs(Path(self.file), seed=workshop.seed)
        schedule = Schedule(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_rows=self.batch_rows, seed=workshop.seed
        )

        def rows(part: Sequence[tuple[str, str, str]]) -> PairRows:
            queries, passages, negatives = (
                rows_of(stage, texts) if all(texts) else () for texts in zip(*part, strict=True)
            )
            return PairRows(queries, passages, negatives)

        network, training = train_on_pairs(
            stage.network(),
            rows(pairs.train),
            rows(pairs.held_out),
            PairTraining(schedule, self.scale),
            checkpoint=checkpoint,
            progress=workshop.progress,
        )
        write_network(network, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(named(self), stage.interface, is_trainable=True, curve=training.as_json())
