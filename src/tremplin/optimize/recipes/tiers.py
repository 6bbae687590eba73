"""Recipes that come with the package: from lossless to tiny, and one joined of two."""

from __future__ import annotations

from tremplin.optimize.recipes.recipe import Recipe, recipe
from tremplin.optimize.recipes.steps import (
    Bigrams,
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

# One layer taught with the whole vocabulary: what answers first in a cascade, and what "small" begins with.
ONE_LAYER = (TEACHER, DropLayers(keep=1), Bigrams(rows=4_000), Distil(epochs=4, augment=2, learning_rate=1e-3))

LOSSLESS = recipe("lossless", TEACHER, Quantize())
BALANCED = recipe(
    "balanced",
    TEACHER,
    Prune(heads=0.5, feed_forward=0.5),
    DropLayers(keep=4),
    TrimVocabulary(words=10_000),
    Distil(epochs=3, augment=2),
    Quantize(),
)
FIRST_OF_CASCADE = recipe("first", *ONE_LAYER, Quantize())
SMALL = recipe(
    "small",
    *ONE_LAYER,
    TrimVocabulary(words=8_000),
    Bigrams(rows=2_000),
    Distil(epochs=2, augment=2, learning_rate=1e-3),
    Quantize(),
)
TINY = recipe(
    "tiny",
    TEACHER,
    TrimVocabulary(words=10_000),
    Static(width=192, bigram_rows=8_000, inner=256),
    Distil(epochs=10, augment=2, learning_rate=3e-3, head_learning_rate=3e-3),
    Quantize(),
)
CASCADE = CascadeRecipe("cascade", first="first", then="lossless")
INSTANT = recipe("instant", FrozenHead(), Quantize())

TIERS: tuple[Recipe, ...] = (LOSSLESS, TINY, BALANCED, FIRST_OF_CASCADE, SMALL, INSTANT)

# For encoders: the version one begins with is the teacher.
ENCODER_TIERS: tuple[Recipe, ...] = (
    recipe("lossless", Quantize()),
    recipe("half", DropLayers(keep=3), Distil(epochs=3, embedding_weight=1.0, patience=0), Quantize()),
    recipe(
        "tiny",
        Static(width=256),
        Distil(epochs=5, embedding_weight=1.0, learning_rate=3e-3, patience=0),
        Quantize(),
    ),
)
