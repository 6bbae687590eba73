"""Which recipes to try under a time budget, and in which order.

The space is the shape of the student: how many layers, which share of heads and neurons, how many words, or no
layers at all. All recipes share their teacher, which is trained once. Those that were best elsewhere come first,
then their neighbours towards the side that the evidence asks for; what a recipe will take is learned from those
that were worked, and one that would end after the budget is not begun.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tremplin.optimize.recipes.recipe import Recipe, recipe
from tremplin.optimize.recipes.steps import Distil, DropLayers, Prune, Quantize, Static, Step, TrimVocabulary

LAYERS = (6, 4, 3, 2, 1)
WIDTHS = (1.0, 0.5)
WORDS = 10_000


@dataclass(frozen=True)
class Shape:
    """A student's shape."""

    layers: int
    width: float
    """Share of heads and neurons that stays."""

    @property
    def cost(self) -> float:
        """Arithmetic of a token against six whole layers; the rest of a network is small beside it."""
        return max(self.layers * self.width, 0.2) / 6


# From the middle outwards: the first ones span the front even when the budget ends early.
ORDER = (
    Shape(6, 1.0), Shape(4, 0.5), Shape(1, 1.0), Shape(0, 1.0), Shape(3, 1.0), Shape(6, 0.5), Shape(2, 1.0),
    Shape(3, 0.5), Shape(4, 1.0), Shape(2, 0.5),
)  # fmt: skip


def proposals(teacher: Step | None, depth: int, *, epochs: float = 3.0, augment: float = 1.0) -> list[Recipe]:
    """Return the recipes of a search, in the order they are to be tried.

    ``teacher`` is the step that makes it, None when the version one begins with is it; ``depth`` are its layers.
    """
    return [_recipe(teacher, shape, depth, epochs, augment) for shape in ORDER if shape.layers <= depth]


def _recipe(teacher: Step | None, shape: Shape, depth: int, epochs: float, augment: float) -> Recipe:
    name = f"l{shape.layers}" + ("" if shape.width == 1 else f"-w{round(100 * shape.width)}")
    steps: list[Step] = [] if teacher is None else [teacher]
    if shape.layers == depth and shape.width == 1:
        return recipe(name, *steps, Quantize())
    trim = TrimVocabulary(words=WORDS)
    if shape.layers == 0:
        lesson = Distil(epochs=3 * epochs, augment=2 * augment, learning_rate=3e-3, patience=0)
        return recipe(name, *steps, trim, Static(width=192, bigram_rows=8_000, inner=256), lesson, Quantize())
    if shape.width < 1:
        steps.append(Prune(heads=shape.width, feed_forward=shape.width))
    if shape.layers < depth:
        steps.append(DropLayers(keep=shape.layers))
    return recipe(name, *steps, trim, Distil(epochs=epochs, augment=augment, patience=0), Quantize())


@dataclass
class Budget:
    """Time for a search; says whether a recipe can still be begun."""

    seconds: float
    judging_s: float = 45.0
    """Kept back for judging and racing what was made."""
    _started: float = field(default_factory=lambda: time.monotonic())  # noqa: PLW0108 (looked up when called)
    _longest: float = 0.0
    _begun: int = 0
    _mark: float = 0.0

    def wants(self, recipe_: Recipe) -> bool:
        """Return whether there is time for one more, going by how long those before took."""
        now = time.monotonic() - self._started
        # The first makes the teacher, whatever it takes; the second is the first to tell what a student takes.
        if self._begun > 1:
            self._longest = max(self._longest, now - self._mark)
        self._mark = now
        self._begun += 1
        return self._begun == 1 or now + self._longest + self.judging_s < self.seconds
