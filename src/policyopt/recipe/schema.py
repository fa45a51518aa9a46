"""From YAML to a checked recipe: unknown keys, wrong types and options without effect are errors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from policyopt.options import ROOTS
from policyopt.plain import PlainError, from_yaml
from policyopt.recipe.base import Recipe, RecipeError, problems
from policyopt.recipe.control.sections import ControlRecipe
from policyopt.recipe.denoising.sections import DenoisingRecipe
from policyopt.recipe.diffusion.sections import DiffusionRecipe
from policyopt.recipe.language.sections import LanguageRecipe
from policyopt.recipe.places import anchor

# Without a mark of another kind a recipe is the last one's.
RECIPES: tuple[type[Recipe], ...] = (ControlRecipe, DiffusionRecipe, DenoisingRecipe, LanguageRecipe)
SOURCES = ("model", "new", "control", "diffusion", "denoising")  # where a policy comes from: one of them

__all__ = ["Recipe", "RecipeError", "apply_change", "load_recipe", "make_recipe"]


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file with `key=value` changes applied. Relative paths of a run's recipe are relative to the
    folder that the run was started in, those of other recipes and of changes to the present one."""
    source = Path(path)
    if not source.is_file():
        raise RecipeError(f"there is no recipe {str(source)!r}; give the path of a YAML file")
    try:
        data = from_yaml(source.read_bytes())
    except (OSError, PlainError) as error:
        raise RecipeError(f"{source} is {error}" if isinstance(error, PlainError) else str(error)) from error
    if not isinstance(data, dict):
        raise RecipeError(f"{source} must be a mapping with keys like {list(Recipe.model_fields)}")
    anchor(data, source, RECIPES)
    return make_recipe(data, changes)


def make_recipe(data: Mapping[str, Any], changes: Sequence[str] = ()) -> Recipe:
    """A checked recipe with `key=value` changes applied; the error says every problem at once."""
    data = copy.deepcopy(dict(data))
    if isinstance(data.get("runtime"), str):
        data["runtime"] = {"on": data["runtime"]}
    for change in changes:
        apply_change(data, change)
    recipe = _recipe_of(data)
    try:
        return recipe.model_validate(data)
    except ValidationError as error:
        marks = {"tasks": [name for other in RECIPES for name in other.marks.get("tasks", ())]}
        raise RecipeError(problems(error, recipe, also=marks)) from error


def _recipe_of(data: Mapping[str, Any]) -> type[Recipe]:
    """The kind of recipe whose marks the data has. What the tasks say counts more than the policy; of several kinds for
    the same tasks, the folder of a model says which it is."""
    policy = data.get("policy")
    model = policy.get("model") if isinstance(policy, dict) else None

    def marked(recipe: type[Recipe], section: str) -> bool:
        given = data.get(section)
        found = {name for name, value in given.items() if value is not None} if isinstance(given, dict) else set()
        return bool(found & set(recipe.marks.get(section, ())))

    def likely(recipe: type[Recipe]) -> tuple[bool, bool]:
        opened = isinstance(model, str) and bool(recipe.opens) and (Path(model) / recipe.opens).is_file()
        return marked(recipe, "tasks"), marked(recipe, "policy") or opened

    best = max(RECIPES, key=likely)  # the first of equals
    return best if any(likely(best)) else RECIPES[-1]


def apply_change(data: dict[str, Any], change: str) -> None:
    """Set `key=value` in a recipe's data. `method=` and options of a method (`objective.clip_high=0.3`) go to the
    last stage; `stages.0.steps=5` counts stages from 0; everything else is a path of the recipe."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise RecipeError(f"changes are written key=value, got {change!r}")
    try:
        value = from_yaml(text)
    except PlainError as error:
        raise RecipeError(f"the value of {change!r:.200} is {error}") from error
    key = "runtime.on" if key == "runtime" and isinstance(value, str) else key
    stages, names = _stages(data), key.split(".")
    if names[0] in ROOTS:
        _set_option(stages[-1], key, value)
    elif key in ("method", "steps"):
        stages[-1][key] = value
    elif names[0] == "stages" and len(names) > 2 and names[1].isdigit() and names[2] in ROOTS:
        _set_option(_stage(stages, names[1], key), ".".join(names[2:]), value)
    elif names[0] == "stages" and len(names) > 2 and names[1].isdigit():
        _put(_stage(stages, names[1], key), names[2:], value, key)
    else:
        _put(data, names, value, key)
        _give_way(data, names, value)


def _give_way(data: Mapping[str, Any], names: Sequence[str], value: Any) -> None:
    """A model given in a change takes the place of the recipe's new one, and the other way round."""
    if names[0] == "policy" and len(names) > 1 and names[1] in SOURCES and value is not None:
        for other in set(SOURCES) - {names[1]}:
            data["policy"].pop(other, None)


def _stages(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    stages = data.get("stages") or [{}]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise RecipeError(f"stages must be a list of {{method, steps, options}}, got {stages!r:.80}")
    return stages


def _set_option(stage: dict[str, Any], key: str, value: Any) -> None:
    stage["options"] = {**(stage.get("options") or {}), key: value}


def _stage(stages: list[dict[str, Any]], number: str, key: str) -> dict[str, Any]:
    if int(number) >= len(stages):
        raise RecipeError(f"{key}: the recipe has {len(stages)} stages, counted from 0")
    return stages[int(number)]


def _put(data: dict[str, Any], names: Sequence[str], value: Any, key: str) -> None:
    for name in names[:-1]:
        if data.get(name) is None:
            data[name] = {}
        data = data[name]
        if not isinstance(data, dict):
            raise RecipeError(f"{key}: {name} is not a section of the recipe")
    data[names[-1]] = value
