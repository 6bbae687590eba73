"""A recipe: a name and a list of steps, as YAML says it.

name: balanced
steps:
  - fine-tune: {epochs: 3}
  - drop-layers: {keep: 4}
  - prune: {heads: 0.5, feed-forward: 0.5}
  - distil: {epochs: 6, augment: 2}
  - quantize
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from tremplin.errors import BadInput
from tremplin.optimize.recipes.steps import STEPS, Step

MAX_STEPS = 20
MAX_RECIPES = 50
MAX_FILE_BYTES = 1_000_000
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
BY_NAME = {step.name: step for step in STEPS}


@dataclass(frozen=True)
class Recipe:
    """Steps in order, under a name."""

    name: str
    steps: tuple[Step, ...]

    def as_yaml(self) -> str:
        """Return the recipe as a file that makes it again."""
        listed = [{step.name: _shown(step)} if _shown(step) else step.name for step in self.steps]
        return str(yaml.safe_dump({"name": self.name, "steps": listed}, sort_keys=False, allow_unicode=True))


def read_recipes(path: Path) -> tuple[Recipe, ...]:
    """Return the recipes of a YAML file: one mapping, or a list of them.

    Raises BadInput that names the recipe, the step and the option that is to blame.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadInput(f"{path} is larger than {MAX_FILE_BYTES:,} bytes; a recipe is a few lines.")
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadInput(f"{path}{where} is not valid YAML: {getattr(error, 'problem', error)}.") from None
    return parse_recipes(tree, path.name)


def parse_recipes(tree: Any, source: str) -> tuple[Recipe, ...]:
    """Return the recipes in what a YAML file holds; ``source`` names it in messages."""
    listed = tree if isinstance(tree, list) else [tree]
    if not 0 < len(listed) <= MAX_RECIPES:
        raise BadInput(f"{source} holds {len(listed)} recipes; 1 to {MAX_RECIPES} were expected.")
    recipes = tuple(_recipe(entry, source) for entry in listed)
    names = [recipe.name for recipe in recipes]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{source}: two recipes are called {repeated[0]!r}; give each a name of its own.")
    return recipes


def _recipe(entry: Any, source: str) -> Recipe:
    if not isinstance(entry, dict) or set(entry) != {"name", "steps"}:
        raise BadInput(f"{source}: a recipe is a mapping with 'name' and 'steps', such as name: small.")
    name, steps = entry["name"], entry["steps"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadInput(f"{source}: {name!r} cannot name a recipe; use lower-case letters, digits and '-'.")
    if not isinstance(steps, list) or not 0 < len(steps) <= MAX_STEPS:
        raise BadInput(f"{source}, recipe {name}: 'steps' must be a list of 1 to {MAX_STEPS} steps.")
    return Recipe(
        name, tuple(_step(step, f"{source}, recipe {name}, step {n}") for n, step in enumerate(steps, 1))
    )


def _step(entry: Any, where: str) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise BadInput(f"{where}: expected a step's name, or one name with its options.")
    ((name, options),) = entry.items()
    if name not in BY_NAME:
        raise BadInput(f"{where}: there is no step {name!r}; choose among {', '.join(BY_NAME)}.")
    if not isinstance(options or {}, dict):
        raise BadInput(f"{where}: the options of {name} must be a mapping.")
    given = {str(key).replace("-", "_"): value for key, value in (options or {}).items()}
    try:
        step: Step = TypeAdapter(BY_NAME[name]).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-") if first["loc"] else name
        raise BadInput(f"{where}: {name} {option}: {first['msg']}, got {first.get('input')!r}.") from None
    return step


def _shown(step: Step) -> dict[str, Any]:
    """Return the options that differ from their defaults, as YAML writes them."""
    default = asdict(BY_NAME[step.name]())  # type: ignore[call-overload]
    options: dict[str, Any] = asdict(step)  # type: ignore[call-overload]
    return {
        name.replace("_", "-"): list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value != default[name]
    }


def recipe(name: str, *steps: Step) -> Recipe:
    """Return a recipe made in code."""
    return Recipe(name, tuple(steps))
