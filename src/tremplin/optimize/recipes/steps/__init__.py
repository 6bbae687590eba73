"""The steps a recipe can name. Each takes a stage and writes the next one's graph and tokenizer.

Options are fields: what a recipe may say, with what is done when it says nothing. A step says before it works what
it cannot work on (PassFailed); ``runner.py`` checks afterwards that what it wrote runs and is what it claims.
"""

from __future__ import annotations

from tremplin.optimize.recipes.steps.distil import Distil
from tremplin.optimize.recipes.steps.encode import Half, Quantize
from tremplin.optimize.recipes.steps.shrink import Bigrams, DropLayers, Prune, Sparsify, Static, TrimVocabulary
from tremplin.optimize.recipes.steps.step import Step, Workshop, need_torch
from tremplin.optimize.recipes.steps.teach import FewShot, FineTune, FrozenHead, TrainOnPairs

STEPS: tuple[type[Step], ...] = (
    FineTune, FrozenHead, FewShot, TrainOnPairs, Distil, Prune, DropLayers, TrimVocabulary, Static, Bigrams,
    Sparsify, Quantize, Half,
)  # fmt: skip

__all__ = [
    "STEPS", "Bigrams", "Distil", "DropLayers", "FewShot", "FineTune", "FrozenHead", "Half", "Prune", "Quantize",
    "Sparsify", "Static", "Step", "TrainOnPairs", "TrimVocabulary", "Workshop", "need_torch",
]  # fmt: skip
