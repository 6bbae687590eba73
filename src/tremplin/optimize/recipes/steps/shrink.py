"""Steps that make a network smaller. What they take away is taught back by ``distil`` afterwards."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from tremplin.errors import PassFailed
from tremplin.optimize.network.to_graph import write_network
from tremplin.optimize.recipes.stage import Stage, StageRecord
from tremplin.optimize.recipes.steps.step import STRICT, Workshop, named, need_torch
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE

MAX_BIGRAM_ROWS = 1_000_000


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
            named(self), stage.interface, is_trainable=True,
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
            named(self),
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
        return StageRecord(named(self), interface, is_trainable=True, facts=facts)


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
        return StageRecord(named(self), stage.interface, is_trainable=True, facts={"shape": student.shape})


@dataclass(frozen=True)
class Bigrams:
    """Add rows for pairs of neighbours, which say nothing yet; distil afterwards."""

    name: ClassVar[str] = "bigrams"
    makes_teacher: ClassVar[bool] = False
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rows: int = 4_000

    def run(self, stage: Stage, workshop: Workshop, out: Path, checkpoint: Path) -> StageRecord:
        """Write the network with the table; it answers as before."""
        if not 0 < self.rows <= MAX_BIGRAM_ROWS:
            raise PassFailed(f"rows must lie between 1 and {MAX_BIGRAM_ROWS:,}, not {self.rows}.")
        network = stage.network()
        table = np.zeros((self.rows, network.weights.word.shape[1]), np.float32)
        wider = replace(network, weights=replace(network.weights, bigram=table))
        write_network(wider, out / MODEL_FILE)
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(named(self), stage.interface, is_trainable=True, facts={"shape": wider.shape})


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
        return StageRecord(named(self), stage.interface, is_trainable=True, notes=(note,), facts=facts)
