"""The step that teaches a student."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from tremplin.errors import PassFailed
from tremplin.optimize.network.to_graph import write_network
from tremplin.optimize.recipes.stage import Stage, StageRecord
from tremplin.optimize.recipes.steps.step import STRICT, Workshop, named, need_torch, rows_of
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE


@dataclass(frozen=True)
class Distil:
    """Teach the network to answer as its teacher, on the task's texts and on variations of them."""

    name: ClassVar[str] = "distil"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: float = 6.0
    learning_rate: float = 5e-4
    head_learning_rate: float = 1e-3
    batch_rows: int = 64
    dropout: float = 0.0
    patience: int = 3
    augment: float = 0.0
    """Variations made, as a multiple of the training texts; the teacher labels them."""
    temperature: float = 2.0
    logits_weight: float = 1.0
    embedding_weight: float = 10.0
    label_weight: float = 0.3
    states_weight: float = 0.0
    attention_weight: float = 0.0
    quantization_aware: bool = False

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the student after its lessons."""
        need_torch(workshop.threads)
        from tremplin.optimize.compress.distil import Distillation, teach
        from tremplin.optimize.recipes.teacher_answers import teacher_answers
        from tremplin.optimize.training.lesson import Lesson
        from tremplin.optimize.training.loop import Schedule
        from tremplin.optimize.training.objectives import IGNORED

        teacher = stage.teacher
        if teacher is None:
            raise PassFailed("distil needs a teacher: put fine-tune, head or pairs before it in the recipe.")
        student, corpus = stage.network(), workshop.corpus
        more = [*corpus.unlabelled, *self._variations(teacher, workshop)]
        texts = [*corpus.train.texts, *more]
        if corpus.labels and student.head is not None:
            known, checked = corpus.train.targets(corpus.labels), corpus.validation.targets(corpus.labels)
        else:
            known = np.full(len(corpus.train), IGNORED, np.int64)
            checked = np.full(len(corpus.validation), IGNORED, np.int64)
        targets = np.concatenate([known, np.full(len(more), IGNORED, np.int64)])
        shown, theirs = teacher_answers(teacher, texts, workshop.progress)
        held_out_shown, _ = teacher_answers(teacher, corpus.validation.texts)
        schedule = Schedule(
            epochs=self.epochs, batch_rows=self.batch_rows, learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate, dropout=self.dropout, patience=self.patience,
            seed=workshop.seed,
        )  # fmt: skip
        options = Distillation(
            schedule, self.temperature, self.logits_weight, self.embedding_weight, self.label_weight,
            self.states_weight, self.attention_weight, self.quantization_aware,
        )  # fmt: skip
        network, training = teach(
            student,
            Lesson(rows_of(stage, texts), targets),
            shown,
            Lesson(rows_of(stage, corpus.validation.texts), checked),
            held_out_shown,
            options,
            deep_teacher=(teacher.network(), theirs) if self.states_weight or self.attention_weight else None,
            checkpoint=checkpoint,
            progress=workshop.progress,
        )
        write_network(network, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(
            named(self),
            stage.interface,
            is_trainable=True,
            curve=training.as_json(),
            facts={"texts": len(texts), "shape": network.shape},
        )

    def _variations(self, teacher: Stage, workshop: Workshop) -> list[str]:
        count = round(self.augment * len(workshop.corpus.train))
        if not count:
            return []
        from tremplin.optimize.compress.augment import Variations, near_words, words_of
        from tremplin.optimize.recipes.teacher_answers import teacher_answers

        texts = workshop.corpus.train.texts
        words = words_of(texts)
        vectors, _ = teacher_answers(teacher, words)
        return Variations(texts, near_words(words, vectors.embeddings), seed=workshop.seed).make(count)
