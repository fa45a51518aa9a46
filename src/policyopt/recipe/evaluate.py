"""Evaluating a saved model without training it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policyopt.engines.choose import engine_for
from policyopt.evaluation.passes import Passes, passes
from policyopt.policies.checkpoint import load_language
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.build import choose_device
from policyopt.recipe.schema import EvaluationSection, RecipeError, TasksSection, load_recipe
from policyopt.recipe.tasks import close_world, held_out_entries, make_world, verifier_name
from policyopt.recipe.training import EVALUATION_SEED


def evaluate_folder(
    model: str, task: str, tasks: int, samples: int, limit: int | None = None, prompt: str | None = None
) -> Passes:
    """Success of a model folder on held-out tasks of a recipe (a path) or of a reasoning-gym data set (a name).

    With a recipe, its own run's held-out tasks are the first `tasks` of these.
    """
    changes: dict[str, Any] = {}
    if limit is not None:
        changes["limit"] = limit
    if prompt is not None:
        changes["prompt"] = prompt
    evaluation = EvaluationSection(tasks=tasks, samples=samples)
    if Path(task).suffix in (".yaml", ".yml"):
        recipe = load_recipe(task)
        section = TasksSection.model_validate({**recipe.tasks.model_dump(exclude_unset=True), **changes})
        if recipe.evaluation is not None:
            chosen = {"tasks": tasks, "samples": samples}
            evaluation = EvaluationSection.model_validate({**recipe.evaluation.model_dump(), **chosen})
    else:
        section = TasksSection.model_validate({"reasoning_gym": task, **changes})
    if verifier_name(section) is None:
        raise RecipeError("evaluation needs a verifier; set tasks.verifier in the recipe")
    device = choose_device("auto")
    policy, tokenizer = load_language(model).to(device), load_tokenizer(model)
    world = make_world(section, held_out_entries(section, evaluation), tokenizer, policy.positions)
    try:
        engine = engine_for(policy, world)
        return passes(policy, world, engine, EVALUATION_SEED, samples, evaluation.temperature, evaluation.success)
    finally:
        close_world(world)
