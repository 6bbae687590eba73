"""Recipes that come with the package: from lossless to tiny, and one joined of two."""

from __future__ import annotations

from tremplin.optimize.recipes.recipe import Recipe, recipe
from tremplin.optimize.recipes.steps import (
    Distil,
    DropLayers,
    FineTune,
    FrozenHead,
    Prune,
    Quantize,
    Static,
    TrimVocabulary,
)
from tremplin.optimize.recipes.study import CascadeRecipe

TEACHER = FineTune(epochs=3)

LOSSLESS = recipe("lossless", TEACHER, Quantize())
BALANCED = recipe(
    "balanced",
    TEACHER,
    Prune(heads=0.5, feed_forward=0.5),
    DropLayers(keep=4),
    TrimVocabulary(words=10_000),
    Distil(epochs=4, augment=2),
    Quantize(),
)
SMALL = recipe(
    "small", TEACHER, DropLayers(keep=1), TrimVocabulary(words=10_000), Distil(epochs=6, augment=3), Quantize()
)
TINY = recipe(
    "tiny",
    TEACHER,
    TrimVocabulary(words=10_000),
    Static(width=192, bigram_rows=8_000, inner=256),
    Distil(epochs=10, augment=4, learning_rate=3e-3),
    Quantize(),
)
FIRST_OF_CASCADE = recipe("first", TEACHER, DropLayers(keep=1), Distil(epochs=6, augment=3), Quantize())
CASCADE = CascadeRecipe("cascade", first="first", then="lossless")
INSTANT = recipe("instant", FrozenHead(), Quantize())

TIERS: tuple[Recipe, ...] = (LOSSLESS, BALANCED, SMALL, TINY, FIRST_OF_CASCADE, INSTANT)
