"""`policyopt reward`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cli.console import console


def reward(  # noqa: PLR0913 - every argument is an option of the command line
    model: Annotated[
        str, typer.Argument(help="Folder of a reward model or of a policy (see --reference), or a judge's YAML file.")
    ],
    pairs: Annotated[str | None, typer.Option(help="Benchmark: a JSONL file of the form of RewardBench.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Folder of the policy that MODEL was trained from: its implicit reward is used.")
    ] = None,
    beta: Annotated[float, typer.Option(help="Scale of an implicit reward.")] = 0.1,
    task: Annotated[
        str | None, typer.Option(help="Recipe, whose verifier is the gold reward of best-of-n on held-out prompts.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="With --task: folder of the policy that is sampled.")] = None,
    candidates: Annotated[int, typer.Option(help="With --task: samples of every prompt.", min=2)] = 16,
    optimised: Annotated[
        list[str] | None, typer.Option(help="With --task: folder of a policy that was optimised; again for more.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Write the report (Markdown) there, and JSON beside it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How good a reward model is: accuracy and calibration on a benchmark, and the gold reward of what is optimised
    against it."""
    from transformers.utils import logging

    from policyopt.recipe.language.rewards import open_scorer
    from policyopt.report.reward_models import markdown

    if pairs is None and task is None:
        raise typer.BadParameter("give --pairs FILE, --task RECIPE --policy FOLDER, or both")
    if (task is None) != (policy is None):
        raise typer.BadParameter("--task and --policy belong together")
    logging.disable_progress_bar()  # a bar for every model that is opened
    scorer = open_scorer(model, reference, beta)
    found: dict[str, Any] = {"model": model}
    if pairs is not None:
        found["benchmark"] = _benchmark(scorer, pairs)
    if task is not None and policy is not None:
        found["gold"] = _gold(scorer, task, policy, candidates, optimised or [])
    page, data = markdown(model, found), json.dumps(found, indent=2)
    if out is not None:
        Path(out).write_text(page, encoding="utf-8")
        Path(out).with_suffix(".json").write_text(data + "\n", encoding="utf-8")
    if as_json:
        print(data)
    else:
        console.print(page, markup=False, soft_wrap=True)


def _benchmark(scorer: Any, pairs: str) -> Any:
    from policyopt.recipe.language.rewards import on_benchmark
    from policyopt.worlds.reward_bench import read_items

    return on_benchmark(scorer, read_items(pairs))


def _gold(scorer: Any, task: str, policy: str, candidates: int, optimised: list[str]) -> Any:
    from policyopt.recipe.base import RecipeError
    from policyopt.recipe.language.rewards import against_gold
    from policyopt.recipe.language.sections import LanguageRecipe
    from policyopt.recipe.schema import load_recipe

    recipe = load_recipe(task)
    if not isinstance(recipe, LanguageRecipe):
        raise RecipeError(f"{task} trains no language policy; reward models are evaluated on answers to prompts")
    return against_gold(scorer, recipe, policy, candidates, optimised)
