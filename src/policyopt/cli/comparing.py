"""`policyopt compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cli.console import FAILED, INTERRUPTED, console


def compare(  # noqa: PLR0913 - every argument is an option of the command line
    recipe: Annotated[str, typer.Argument(help="Path of a recipe (YAML); methods take its last stage.")],
    methods: Annotated[
        str, typer.Option(help="Methods, as a,b,c; or a YAML file of arms, for methods with options of their own.")
    ],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, for all methods.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of every method; at least 5 tell anything apart.", min=2)] = 5,
    budget: Annotated[
        str, typer.Option(help="tokens=N, samples=N or seconds=N of a run. Default: what the recipe's method uses.")
    ] = "",
    folder: Annotated[str, typer.Option(help="Of the comparison. Default: runs/compare-NAME.")] = "",
    measure: Annotated[str, typer.Option(help="Of the evaluation, such as greedy or pass_at_1.")] = "",
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="Of the measure.")] = False,
    baseline: Annotated[str, typer.Option(help="Compare the others with this arm only.")] = "",
    tune: Annotated[str, typer.Option(help="OPTION=VALUE,VALUE: choose one for every arm, on other seeds.")] = "",
    tuning_seeds: Annotated[int, typer.Option(help="Seeds of every value of --tune.", min=1)] = 2,
    evaluations: Annotated[int, typer.Option(help="Of every run, at equal shares of its budget.", min=1)] = 5,
    jobs: Annotated[int | None, typer.Option(help="Runs side by side. Default: one per core.", min=1)] = None,
) -> None:
    """Compare methods fairly: equal beginnings, tasks and budgets, several seeds, and what the numbers do not tell.

    Stop it with Ctrl-C (or by any other means) and give the same command again: it goes on.
    """
    from policyopt.recipe.comparison import asked
    from policyopt.recipe.schema import load_recipe

    loaded = load_recipe(recipe, changes or [])
    plan = asked.make_plan(
        loaded,
        arms=asked.read_arms(methods),
        seeds=seeds,
        budget=asked.read_budget(budget, evaluations) if budget else asked.own_budget(loaded, evaluations),
        measure=measure,
        lower_is_better=lower_is_better,
        baseline=baseline or None,
        tune=asked.read_tuning(tune, tuning_seeds) if tune else None,
    )
    _tell(_run(plan, Path(folder or f"runs/compare-{plan.name}"), jobs))


def _run(plan: Any, where: Path, jobs: int | None) -> Any:
    """The comparison in its folder, to its end."""
    from policyopt.recipe.comparison.board import board
    from policyopt.recipe.comparison.compare import compare as run

    command = shlex.join(["policyopt", *sys.argv[1:]])
    try:
        done = run(plan, where, board(console), jobs, command)
    except KeyboardInterrupt:
        console.print(f"Stopped at once; finished runs are kept. Go on with: {command}", soft_wrap=True, markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if done.record is None:
        console.print(f"Stopped; nothing is lost. Go on with: {command}", soft_wrap=True, markup=False)
        raise typer.Exit(INTERRUPTED)
    return done


def _tell(done: Any) -> None:
    """What was found; exit code 1 if a run failed."""
    from policyopt.report.comparison import answer

    for label, error in done.failed.items():
        console.print(f"[red]failed[/] {label}: {error}", soft_wrap=True)
    if len(done.record.complete) > 1:
        console.print(answer(done.record.compare()).replace("**", ""), soft_wrap=True)
    console.print(f"report {done.report}", soft_wrap=True, markup=False)
    if done.failed:
        raise typer.Exit(FAILED)
