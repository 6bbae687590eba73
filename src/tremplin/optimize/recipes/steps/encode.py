"""Steps that write numbers in fewer bits and finish a graph."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from tremplin.optimize.calibrate import collect_statistics
from tremplin.optimize.optimiser import CALIBRATION_TEXTS, make_pass
from tremplin.optimize.passes.half import HalfWeights
from tremplin.optimize.passes.tables import SmallTables
from tremplin.optimize.recipes.stage import Stage, StageRecord
from tremplin.optimize.recipes.steps.step import STRICT, Workshop, named, rows_of
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE


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
        narrow = False
        notes: tuple[str, ...] = ()
        network = stage.network()
        if self.scheme != "none" and network.weights.layers:
            texts = workshop.corpus.train.texts
            random = np.random.default_rng([workshop.seed, 19])
            chosen = random.choice(len(texts), min(len(texts), CALIBRATION_TEXTS), replace=False)
            rows = rows_of(stage, [texts[number] for number in chosen])
            statistics = collect_statistics(stage.graph, rows, seed=workshop.seed, threads=workshop.threads)
            result = make_pass(self.scheme, statistics).call(stage.graph, aside)
            narrow, notes = result.narrow_weights, result.notes
        else:
            shutil.copyfile(stage.graph, aside)
            narrow = True  # no product of the layers is in eight bits
        positions = network.position_rows(stage.interface.max_tokens)
        SmallTables(word_bits=self.table_bits, positions=positions).call(aside, out / MODEL_FILE)
        aside.unlink()
        shutil.copyfile(stage.tokenizer, out / TOKENIZER_FILE)
        return StageRecord(
            named(self),
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
        return StageRecord(named(self), stage.interface, is_trainable=False)
