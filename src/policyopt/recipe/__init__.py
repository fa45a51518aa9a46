"""Recipes: YAML in, a run out. What the command line does is a call of `train`, `resume` and `evaluate` here."""

from policyopt.recipe.schema import Recipe, RecipeError, load_recipe

__all__ = ["Recipe", "RecipeError", "load_recipe"]
