"""Evaluating a saved model without training it."""

from __future__ import annotations

from pathlib import Path

from policyopt.recipe.kinds import Asked, Evaluation, load_kind
from policyopt.recipe.schema import RECIPES, load_recipe


def evaluate_folder(model: str, asked: Asked) -> Evaluation:
    """A model folder on the held-out tasks of a recipe (a path) or of an environment or data set (a name)."""
    if Path(asked.task).suffix in (".yaml", ".yml"):
        recipe = load_recipe(asked.task)
        return load_kind(recipe.kind).evaluate(model, recipe, asked)
    kinds = (load_kind(recipe.kind) for recipe in RECIPES)
    return next(kind for kind in kinds if kind.owns(model)).evaluate(model, None, asked)
