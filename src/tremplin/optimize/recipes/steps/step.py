"""What a step is, and what every step needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from tremplin.errors import MissingExtra
from tremplin.optimize.recipes.corpus import Corpus
from tremplin.optimize.recipes.stage import Stage, StageRecord
from tremplin.progress import Progress, silent
from tremplin.serve.tokenize import TextTokenizer

if TYPE_CHECKING:
    from tremplin.optimize.training.lesson import Lesson

STRICT = ConfigDict(extra="forbid")
"""An option no step knows is refused when a recipe is read."""


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


def named(step: Step) -> str:
    """Return a step as recipes write it, with the options that differ from their defaults."""
    given = []
    for found in fields(step):  # type: ignore[arg-type]
        value = getattr(step, found.name)
        if value != found.default:
            shown = list(value) if isinstance(value, tuple) else value
            given.append(f"{found.name.replace('_', '-')}={shown}")
    return f"{step.name}({', '.join(given)})" if given else step.name


def tokenizer_of(stage: Stage) -> TextTokenizer:
    """Return the tokenizer of a stage."""
    return TextTokenizer(stage.tokenizer, stage.interface)


def rows_of(stage: Stage, texts: Sequence[str]) -> list[list[int]]:
    """Return texts as token ids, as a stage reads them."""
    return [list(ids) for ids in tokenizer_of(stage).encode(texts).ids]


def lesson_of(stage: Stage, texts: Sequence[str], targets: NDArray[np.int64]) -> Lesson:
    """Return texts as a stage reads them, with their targets."""
    from tremplin.optimize.training.lesson import Lesson

    return Lesson(rows_of(stage, texts), targets)


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
