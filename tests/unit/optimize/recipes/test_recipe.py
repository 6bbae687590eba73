"""Recipes as YAML: what can be said, and what is said when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tremplin.errors import BadInput
from tremplin.optimize.recipes.recipe import Recipe, parse_recipes, read_recipes
from tremplin.optimize.recipes.search import Budget, proposals
from tremplin.optimize.recipes.steps import STEPS, Distil, DropLayers, FineTune, Prune, Quantize
from tremplin.optimize.recipes.tiers import CASCADE, TIERS


def test_a_recipe_is_read_with_its_options(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "name: balanced\nsteps:\n  - fine-tune: {epochs: 2, learning-rate: 1.0e-4}\n"
        "  - drop-layers: {keep: [0, 5]}\n  - prune: {feed-forward: 0.25}\n  - distil\n"
        "  - quantize: {scheme: mixed}\n"
    )
    (recipe,) = read_recipes(file)
    assert recipe == Recipe(
        "balanced",
        (
            FineTune(epochs=2, learning_rate=1e-4),
            DropLayers(keep=(0, 5)),
            Prune(feed_forward=0.25),
            Distil(),
            Quantize(scheme="mixed"),
        ),
    )


@pytest.mark.parametrize("recipe", TIERS, ids=lambda recipe: recipe.name)
def test_a_recipe_written_is_the_recipe_read(tmp_path: Path, recipe: Recipe) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(recipe.as_yaml())
    assert read_recipes(file) == (recipe,)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ([], "0 recipes"),
        ({"name": "a"}, "'name' and 'steps'"),
        ({"name": "A b", "steps": ["quantize"]}, "cannot name"),
        ({"name": "a", "steps": []}, "list of 1 to"),
        ({"name": "a", "steps": ["quantise"]}, "there is no step 'quantise'"),
        ({"name": "a", "steps": [{"prune": {"heads": "half"}}]}, "prune heads"),
        ({"name": "a", "steps": [{"prune": {"head": 0.5}}]}, "prune head"),
        ({"name": "a", "steps": [{"prune": 3}]}, "must be a mapping"),
        ({"name": "a", "steps": [{"prune": {}, "distil": {}}]}, "one name"),
        ([{"name": "a", "steps": ["half"]}, {"name": "a", "steps": ["half"]}], "two recipes"),
    ],
)
def test_what_is_wrong_is_named(tree: object, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_recipes(tree, "r.yaml")


def test_yaml_that_is_none_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: a\nsteps: [quantize\n")
    with pytest.raises(BadInput, match="line"):
        read_recipes(file)


def test_no_step_has_an_option_without_a_default() -> None:
    for step in STEPS:
        step()


def test_the_cascade_joins_recipes_that_are_there() -> None:
    names = {recipe.name for recipe in TIERS}
    assert {CASCADE.first, CASCADE.then} <= names
    assert len(names) == len(TIERS)


def test_a_search_shares_its_teacher_and_proposes_different_shapes() -> None:
    teacher = FineTune(epochs=1)
    recipes = proposals(teacher, 6)
    assert {recipe.steps[0] for recipe in recipes} == {teacher}
    assert len({recipe.name for recipe in recipes}) == len(recipes) >= 8
    assert all(recipe.name.startswith(("l0", "l1", "l2")) for recipe in proposals(teacher, 2))


def test_a_budget_begins_what_it_can_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tremplin.optimize.recipes.search.time.monotonic", lambda: now[0])
    budget, recipe = Budget(600, judging_s=30), TIERS[0]
    assert budget.wants(recipe)  # the teacher, however long it takes
    now[0] = 200
    assert budget.wants(recipe)
    now[0] = 300  # the first student took 100 s
    assert budget.wants(recipe)
    now[0] = 500  # this one 200 s
    assert not budget.wants(recipe)
