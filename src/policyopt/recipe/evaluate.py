"""Evaluating a saved model without training it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from policyopt.recipe.base import Recipe
from policyopt.recipe.kinds import Asked, Evaluation, load_kind
from policyopt.recipe.language.sections import LanguageRecipe
from policyopt.recipe.schema import RECIPES, load_recipe


def evaluate_folder(model: str, asked: Asked) -> Evaluation:
    """A model folder on the held-out tasks of a recipe (a path) or of an environment or data set (a name)."""
    if Path(asked.task).suffix in (".yaml", ".yml"):
        recipe = load_recipe(asked.task)
        asked = _as_its_runs(recipe, asked)
        found = load_kind(recipe.kind).evaluate(model, recipe, asked)
        return replace(found, remark="; ".join(filter(None, (found.remark, _trained_on(recipe, asked)))))
    kinds = (load_kind(recipe.kind) for recipe in RECIPES)
    return next(kind for kind in kinds if kind.owns(model)).evaluate(model, None, asked)


def _as_its_runs(recipe: Recipe, asked: Asked) -> Asked:
    """As many tasks and samples as runs of the recipe are evaluated on, where the user does not say."""
    said = recipe.evaluation
    if not isinstance(recipe, LanguageRecipe) or said is None:
        return asked
    return replace(asked, count=asked.count or said.tasks, samples=asked.samples or said.samples)


def _trained_on(recipe: Recipe, asked: Asked) -> str:
    """That a model trained by the recipe has seen some of the tasks, if so: the first ones alone are held out."""
    if not isinstance(recipe, LanguageRecipe) or (recipe.evaluation is not None and recipe.evaluation.jsonl):
        return ""
    held_out = 0 if recipe.evaluation is None else recipe.evaluation.tasks
    if asked.count is not None and asked.count <= held_out:
        return ""
    return (
        f"runs of this recipe hold out {held_out} tasks and may train on the others of these; ask for no more "
        "(--tasks), or give evaluation.jsonl"
    )
