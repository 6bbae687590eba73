"""The steps a recipe can name. Each takes a stage and writes the next one's graph and tokenizer.

Options are fields: what a recipe may say, with what is done when it says nothing. A step says before it works what
it cannot work on (PassFailed); ``runner.py`` checks afterwards that what it wrote runs and is what it claims.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from pydantic import ConfigDict

from tremplin.errors import MissingExtra, PassFailed
from tremplin.optimize.calibrate import collect_statistics
from tremplin.optimize.head.attach import attach_head
from tremplin.optimize.head.choose import choose_l2
from tremplin.optimize.head.logistic import fit
from tremplin.optimize.head.split import fold_numbers, text_groups
from tremplin.optimize.network.to_graph import write_network
from tremplin.optimize.optimiser import CALIBRATION_TEXTS, make_pass
from tremplin.optimize.passes.half import HalfWeights
from tremplin.optimize.passes.tables import SmallTables
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.stage import Stage, StageRecord
from tremplin.optimize.run_graph import run_rows
from tremplin.progress import Progress, silent
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE
from tremplin.registry.task import Task
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.tokenize import TextTokenizer

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Workshop:
    """What every step works with."""

    corpus: Corpus
    threads: int
    """Cores that training and encoding may use."""
    seed: int = 0
    progress: Progress = silent


class Step(Protocol):
    """One entry of a recipe."""

    name: ClassVar[str]
    makes_teacher: ClassVar[bool]
    """Whether later steps learn from, and are compared with, what this one makes."""

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write graph and tokenizer into ``out``; raises PassFailed for a stage it cannot work on."""
        ...


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

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write a fine-tuned classifier."""
        need_torch(workshop.threads)
        from tremplin.optimize.training.fine_tune import FineTuning, fine_tune
        from tremplin.optimize.training.loop import Schedule

        schedule = Schedule(
            epochs=self.epochs, batch_rows=self.batch_rows, learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate, dropout=self.dropout, patience=self.patience,
            seed=workshop.seed,
        )  # fmt: skip
        options = FineTuning(schedule, self.smoothing, self.balanced, self.lora_rank)
        corpus = workshop.corpus
        network, training = fine_tune(
            stage.network(),
            _lesson(stage, corpus.train.texts, corpus.train.targets(corpus.labels)),
            _lesson(stage, corpus.validation.texts, corpus.validation.targets(corpus.labels)),
            corpus.labels,
            options,
            checkpoint=checkpoint,
            progress=workshop.progress,
        )
        write_network(network, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        interface = replace(stage.interface, task=Task.CLASSIFICATION, labels=corpus.labels)
        return StageRecord(
            _named(self), interface, is_trainable=True, curve=training.as_json(), facts={"shape": network.shape}
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
        features = _features(stage, texts, workshop)
        weight = "balanced" if self.balanced else None
        folds = fold_numbers(text_groups(texts), targets, seed=workshop.seed)
        choice = choose_l2(features, targets, len(corpus.labels), folds, class_weight=weight)
        head = fit(features, targets, len(corpus.labels), l2=choice.l2, class_weight=weight)
        attach_head(stage.graph, head, choice.temperature, corpus.labels, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        interface = replace(stage.interface, task=Task.CLASSIFICATION, labels=corpus.labels)
        return StageRecord(
            _named(self), interface, is_trainable=True, facts={"l2": choice.l2, "temperature": choice.temperature}
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
            _rows(stage, corpus.train.texts),
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
        return replace(record, step=_named(self), curve=training.as_json())


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
                _rows(stage, texts) if all(texts) else () for texts in zip(*part, strict=True)
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
        return StageRecord(_named(self), stage.interface, is_trainable=True, curve=training.as_json())


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
            Lesson(_rows(stage, texts), targets),
            shown,
            Lesson(_rows(stage, corpus.validation.texts), checked),
            held_out_shown,
            options,
            deep_teacher=(teacher.network(), theirs) if self.states_weight or self.attention_weight else None,
            checkpoint=checkpoint,
            progress=workshop.progress,
        )
        write_network(network, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(
            _named(self),
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


@dataclass(frozen=True)
class Prune:
    """Cut the heads and feed-forward neurons that matter least; distil afterwards."""

    name: ClassVar[str] = "prune"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    heads: float = 0.5
    """Share of the heads of each layer that stays."""
    feed_forward: float = 0.5
    """Share of the neurons of each layer that stays."""
    rows: int = 1024
    """Training rows that importance is measured on."""

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the narrower network."""
        need_torch(workshop.threads)
        from tremplin.optimize.compress.prune import cut
        from tremplin.optimize.recipes.importance import importance_of

        network = stage.network()
        if not network.weights.layers:
            raise PassFailed("There is no layer to prune.")
        found = importance_of(network, stage, workshop, self.rows)
        pruned = cut(network, found, heads=self.heads, neurons=self.feed_forward)
        write_network(pruned, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        kept = pruned.encoder_parameters / network.encoder_parameters
        return StageRecord(
            _named(self), stage.interface, is_trainable=True,
            facts={"encoder_weights_kept": kept, "shape": pruned.shape},
        )  # fmt: skip


@dataclass(frozen=True)
class DropLayers:
    """Keep some layers: so many evenly apart, or those named; distil afterwards."""

    name: ClassVar[str] = "drop-layers"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    keep: int | tuple[int, ...] = 3

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the shallower network."""
        from tremplin.optimize.compress.prune import keep_layers, spread_layers

        network = stage.network()
        count = len(network.weights.layers)
        kept = spread_layers(count, self.keep) if isinstance(self.keep, int) else self.keep
        shallower = keep_layers(network, kept)
        write_network(shallower, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(
            _named(self),
            stage.interface,
            is_trainable=True,
            facts={"layers": list(kept), "shape": shallower.shape},
        )


@dataclass(frozen=True)
class TrimVocabulary:
    """Drop rows of the word table that the task's language does not read; distil afterwards."""

    name: ClassVar[str] = "trim-vocabulary"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    words: int = 10_000

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write network and tokenizer with the smaller vocabulary."""
        from tremplin.optimize.compress.vocabulary import resegmented, trim_network, trim_vocabulary

        corpus = workshop.corpus
        texts = (*corpus.train.texts, *corpus.unlabelled)
        trimmed = trim_vocabulary(stage.tokenizer.read_text("utf-8"), texts, words=self.words)
        network = trim_network(stage.network(), trimmed.kept)
        write_network(network, out / MODEL_FILE)
        (out / TOKENIZER_FILE).write_text(trimmed.tokenizer, "utf-8")
        facts: dict[str, object] = {
            "words": len(trimmed.kept),
            "resegmented_validation": resegmented(stage.tokenizer, out / TOKENIZER_FILE, corpus.validation.texts),
        }
        if corpus.out_of_scope:
            facts["resegmented_out_of_scope"] = resegmented(
                stage.tokenizer, out / TOKENIZER_FILE, corpus.out_of_scope
            )
        interface = replace(stage.interface, vocab_size=len(trimmed.kept))
        return StageRecord(_named(self), interface, is_trainable=True, facts=facts)


@dataclass(frozen=True)
class Static:
    """Begin a student without layers from the teacher's words; distil afterwards."""

    name: ClassVar[str] = "static"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    width: int = 256
    bigram_rows: int = 0
    inner: int = 0

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the student."""
        need_torch(workshop.threads)
        from tremplin.optimize.compress.static import static_student

        student = static_student(
            stage.network(), width=self.width, bigram_rows=self.bigram_rows, inner=self.inner, seed=workshop.seed
        )
        write_network(student, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(_named(self), stage.interface, is_trainable=True, facts={"shape": student.shape})


@dataclass(frozen=True)
class Sparsify:
    """Set the smallest weights to 0: it makes the compressed file smaller, and nothing faster."""

    name: ClassVar[str] = "sparsify"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    share: float = 0.5

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the network with zeros in it."""
        from tremplin.optimize.compress.sparsify import compressed_bytes, sparsify, sparsity

        sparse = sparsify(stage.network(), share=self.share)
        write_network(sparse, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        facts = {
            "sparsity": sparsity(sparse),
            "compressed_bytes": compressed_bytes(out / MODEL_FILE),
            "compressed_bytes_before": compressed_bytes(stage.graph),
        }
        note = "Weights set to 0 make the compressed file smaller; no engine here runs them faster."
        return StageRecord(_named(self), stage.interface, is_trainable=True, notes=(note,), facts=facts)


@dataclass(frozen=True)
class Quantize:
    """Eight-bit arithmetic in the layers, eight or four bits in the tables."""

    name: ClassVar[str] = "quantize"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    scheme: str = "narrow"
    """As ``tremplin optimize --scheme``; ``none`` leaves the layers float."""
    table_bits: int = 8
    """Bits of a number in the word table: 8 or 4."""

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the quantized graph."""
        aside = out / "layers.onnx"
        narrow, notes = False, ()
        has_layers = any(f.name.startswith("encoder.") for f in _initializers(stage.graph))
        if self.scheme != "none" and has_layers:
            texts = workshop.corpus.train.texts
            random = np.random.default_rng([workshop.seed, 19])
            chosen = random.choice(len(texts), min(len(texts), CALIBRATION_TEXTS), replace=False)
            rows = _rows(stage, [texts[number] for number in chosen])
            statistics = collect_statistics(stage.graph, rows, seed=workshop.seed, threads=workshop.threads)
            result = make_pass(self.scheme, statistics).call(stage.graph, aside)
            narrow, notes = result.narrow_weights, result.notes
        else:
            shutil.copyfile(stage.graph, aside)
            narrow = True  # no product of the layers is in eight bits
        SmallTables(word_bits=self.table_bits).call(aside, out / MODEL_FILE)
        aside.unlink()
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(
            _named(self),
            stage.interface,
            is_trainable=False,
            narrow_weights=narrow,
            is_quantized=True,
            notes=notes,
        )


@dataclass(frozen=True)
class Half:
    """Keep weights in 16 bits and compute in 32: half the file, the same speed."""

    name: ClassVar[str] = "half"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the graph with 16-bit weights."""
        HalfWeights().call(stage.graph, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(_named(self), stage.interface, is_trainable=False)


STEPS: tuple[type[Step], ...] = (
    FineTune, FrozenHead, FewShot, TrainOnPairs, Distil, Prune, DropLayers, TrimVocabulary, Static, Sparsify,
    Quantize, Half,
)  # fmt: skip


def _named(step: Step) -> str:
    """Return a step as recipes write it, with the options that differ from their defaults."""
    from dataclasses import fields

    given = []
    for found in fields(step):  # type: ignore[arg-type]
        value = getattr(step, found.name)
        if value != found.default:
            shown = list(value) if isinstance(value, tuple) else value
            given.append(f"{found.name.replace('_', '-')}={shown}")
    return f"{step.name}({', '.join(given)})" if given else step.name


def _tokenizer(stage: Stage) -> TextTokenizer:
    return TextTokenizer(stage.tokenizer, stage.interface)


def _rows(stage: Stage, texts: Sequence[str]) -> list[list[int]]:
    return [list(ids) for ids in _tokenizer(stage).encode(texts).ids]


def _lesson(stage: Stage, texts: Sequence[str], targets):  # type: ignore[no-untyped-def]
    from tremplin.optimize.training.lesson import Lesson

    return Lesson(_rows(stage, texts), targets)


def _features(stage: Stage, texts: Sequence[str], workshop: Workshop):  # type: ignore[no-untyped-def]
    """Return the sentence vectors of texts, (n, dim), by the served engine, as the head will meet them."""
    engine = OnnxRuntimeEngine(stage.graph, threads=workshop.threads, narrow_weights=stage.record.narrow_weights)
    engine.load()
    try:
        return np.stack(run_rows(engine, _rows(stage, texts), "embedding"))
    finally:
        engine.close()


def _initializers(graph: Path):  # type: ignore[no-untyped-def]
    from tremplin.optimize.passes.graph import read_graph

    return read_graph(graph).graph.initializer


def need_torch(threads: int) -> None:
    """Check that torch is there and give it its threads; raises MissingExtra."""
    try:
        import torch
    except ImportError:
        raise MissingExtra(
            "Training needs torch, which is not installed: `pip install torch==2.13.0`, then "
            "`pip install 'tremplin[optimize]'` (docs/install.md)."
        ) from None
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
