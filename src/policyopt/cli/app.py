"""Commands and their errors. Heavy imports happen inside commands, so that `--help` is instant."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from policyopt.cli.comparing import compare
from policyopt.cli.console import INTERRUPTED, WRONG_INPUT, console, errors
from policyopt.cli.data import app as data
from policyopt.cli.rewarding import reward
from policyopt.cli.studying import study
from policyopt.cli.viewing import view

app = typer.Typer(
    name="policyopt",
    help="Train policies with published policy-optimization methods, check the methods, compare what they reach.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
methods = typer.Typer(help="List, show and compare the published methods.", no_args_is_help=True)
app.add_typer(methods, name="methods")
app.add_typer(data, name="data")
app.command()(reward)
app.command()(study)

WIDE = 160  # columns
MEMORY = (
    "there is not enough memory. Update fewer rows at a time (update.micro_rows or update.micro_tokens), keep less of "
    "them (policy.reading.checkpointed=true), sample fewer (sampling.size, selection.count, policy.native.slots) or "
    "shorter ones (tasks.limit); `policyopt check RECIPE --plan` estimates what a recipe needs"
)

Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes, for example [bold]seed=1 objective.clip_high=0.28[/bold]."),
]


def _say_version(asked: bool) -> None:
    if asked:
        import platform
        from importlib.metadata import version

        console.print(f"policyopt {version('policyopt')}, torch {version('torch')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which policyopt, torch and Python."),
    ] = False,
) -> None:
    """Train policies with published policy-optimization methods, check the methods, compare what they reach."""


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe (YAML).")],
    changes: Changes = None,
    folder: Annotated[str | None, typer.Option(help="Run folder; an existing run is never overwritten.")] = None,
) -> None:
    """Train a policy as a recipe says: evaluate, checkpoint, save the model, sum up."""
    from policyopt.recipe.schema import load_recipe
    from policyopt.recipe.training import Training
    from policyopt.runtime.progress import log_to, progress

    log_to(console)
    _quiet()
    given = [*(changes or []), *([f"folder={folder}"] if folder else [])]
    loaded = load_recipe(recipe, given)
    console.print(f"Building the run {loaded.name!r} ...")
    if loaded.runtime.trainers > 1 or launched():
        _together(loaded.runtime, recipe=loaded.yaml())
        return
    with Training.start(loaded, progress(console)) as training:
        finish(training)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Folder of a run.")],
    accept: Annotated[
        bool, typer.Option("--accept-objective", help="Go on although what is minimised has changed since.")
    ] = False,
    trainers: Annotated[int | None, typer.Option(help="Processes, if not as many as before.", min=1)] = None,
) -> None:
    """Go on with a run that was stopped, from its newest good checkpoint, as if it had not stopped."""
    from policyopt.recipe.outcome import Outcome
    from policyopt.recipe.schema import load_recipe
    from policyopt.recipe.training import Training
    from policyopt.runtime.folder import RunFolder
    from policyopt.runtime.progress import log_to, progress

    folder = RunFolder.open(run)
    if folder.summary.is_file():
        console.print(f"{folder.path} is finished; this is what came of it:", soft_wrap=True)
        Outcome.read(folder).show(console)
        return
    log_to(console)
    _quiet()
    changes = [] if trainers is None else [f"runtime.trainers={trainers}"]
    runtime = load_recipe(folder.recipe, changes).runtime
    if runtime.trainers > 1 or launched():
        _together(runtime, run=run, accept=accept)
        return
    with Training.resume(run, progress(console), accept=accept, trainers=trainers) as training:
        finish(training)


def launched() -> bool:
    """Whether a launcher (torchrun) has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _together(runtime: Any, **asked: Any) -> None:
    """Train by several processes."""
    from policyopt.cli.several import several
    from policyopt.recipe.trainers import Asked

    several(Asked(runtime.trainers, **asked), runtime)


def finish(training: Any) -> None:
    """Train to the end, or until the user stops it, and say what came of it."""
    console.print(f"Run folder {training.folder.path}", soft_wrap=True)
    go_on = f"Go on with: {training.folder.resume}"
    try:
        for _ in training.rounds():
            pass
        if training.interrupted:
            console.print(f"Stopped after a finished round; nothing is lost. {go_on}", soft_wrap=True)
            raise typer.Exit(INTERRUPTED)
        outcome = training.finish()
    except KeyboardInterrupt:
        # A second Ctrl-C, or one while the trained policy is evaluated.
        console.print(f"Stopped at once; everything up to the last checkpoint is kept. {go_on}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    outcome.show(console)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="Path of a recipe, or the folder of a run: checked where it stands.")],
    changes: Changes = None,
    batches: Annotated[int, typer.Option(help="Batches of every stage.", min=1)] = 2,
    rows: Annotated[int, typer.Option(help="Rows by which sampler and trainer are compared.", min=8)] = 256,
    planned: Annotated[
        bool, typer.Option("--plan", help="Sample nothing: memory and times of a recipe, or of 1.5B, 7B, 32B or 70B.")
    ] = False,
    machine: Annotated[str, typer.Option(help="Of the plan: a100, h100 or h200.")] = "h100",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Flight check: sample a few batches without training and say what is wrong; exit code 1 on a fault."""
    if planned:
        from policyopt.recipe.sizing import plans
        from policyopt.report.sizing import numbers, table

        sized = plans(target.split(","), changes or [], machine)
        console.print_json(json.dumps(numbers(sized))) if as_json else console.print(table(sized))
        return
    from policyopt.evaluation.flight import as_json as in_json
    from policyopt.evaluation.flight.collect import Sizes
    from policyopt.recipe.flight import flight
    from policyopt.report.flight import show

    _quiet()
    flown = flight(target, changes or [], Sizes(batches, rows))
    if as_json:
        found = in_json(flown)
        print(json.dumps(found, indent=2))
        faults = found["faults"]
    else:
        faults = show(flown, console)
    if faults:
        raise typer.Exit(1)


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, or hub:owner/name.")],
    task: Annotated[
        str, typer.Option(help="A recipe, whose tasks are used, or a reasoning-gym data set or Gymnasium environment.")
    ],
    tasks: Annotated[
        int | None, typer.Option(help="Held-out tasks, episodes or samples. Default: the recipe's.", min=1)
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of every task. Default: the recipe's.", min=8)] = None,
    limit: Annotated[int | None, typer.Option(help="Tokens of an answer at most.", min=1)] = None,
    prompt: Annotated[str | None, typer.Option(help="Template, for example '{word} ='.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Success of a saved model on held-out tasks or episodes, with 95 % intervals."""
    from policyopt.recipe.evaluate import evaluate_folder
    from policyopt.recipe.kinds import Asked
    from policyopt.recipe.outcome import measures

    _quiet()
    changes = {name: value for name, value in (("limit", limit), ("prompt", prompt)) if value is not None}
    result = evaluate_folder(model, Asked(task, tasks, samples, changes))
    if as_json:
        print(json.dumps(result.measured, indent=2))
        if result.remark:
            errors.print(result.remark, markup=False, soft_wrap=True)
        return
    console.print(f"{result.over}; 95 % intervals")
    for name, measure in measures(result.measured).items():
        low, high = result.measured[f"{name}_interval"]
        console.print(f"  {measure.label:28s} {measure.shown(result.measured[name], low, high)}", markup=False)
    if result.remark:
        console.print(f"  {result.remark}", markup=False, soft_wrap=True)


app.command()(compare)
app.command()(view)


@app.command()
def verify(
    key: Annotated[str | None, typer.Argument(help="Method; leave out with --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All methods.")] = False,
    family: Annotated[str, typer.Option(help="With --all: only these families of methods, for example A1,A2.")] = "",
    seeds: Annotated[int | None, typer.Option(help="Seeds; at least 5. Default: the claim's.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="With --all: methods at a time. Default: as many as there are cores.", min=1)
    ] = None,
) -> None:
    """Run the experiment behind a method's claim and write its card. The verdict is computed."""
    from policyopt.report.verification import in_families, verify_and_report

    if (key is None) != every:
        raise typer.BadParameter("give either a method or --all")
    if family and not every:
        raise typer.BadParameter("--family narrows --all; give both")
    verify_and_report(in_families(family) if key is None else [key], seeds, console, jobs)


@app.command()
def conformance(
    file: Annotated[str | None, typer.Argument(help="Vectors (JSON); without it, our own.")] = None,
    parts: Annotated[bool, typer.Option("--list", help="Print every part with its options and inputs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check parts against published input/output vectors; exit code 1 if a case fails."""
    from policyopt.evaluation.conformance import conformance_main

    code = conformance_main(file, list_only=parts, as_json=as_json)
    if code:
        raise typer.Exit(code)


@methods.command(name="list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    sort: Annotated[str, typer.Option(help="key, family, verdict, effect or cost.")] = "key",
) -> None:
    """All published methods: what they change, how well they are checked, whether their claim was shown."""
    from policyopt.report.listing import list_methods, table

    found = list_methods(sort)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        # A pipe has no width of its own.
        shown = console if console.is_terminal else Console(file=console.file, width=WIDE, highlight=False)
        shown.print(table(found, narrow=shown.width < WIDE))


@methods.command()
def show(key: Annotated[str, typer.Argument(help="Method key, or the path of a method's file.")]) -> None:
    """What a method computes: formulas, averages, roles, and every option with its default."""
    from policyopt.compose import Part
    from policyopt.methods import load
    from policyopt.options import options, snake
    from policyopt.report.objective import describe

    method = load(key)
    console.print(describe(method), markup=False, soft_wrap=True)
    console.print("\nOptions (change them as KEY=VALUE):")
    for option in options(method):
        # A part is set by its name; its own options follow it.
        value = snake(type(option.value).__name__) if isinstance(option.value, Part) else option.value
        value = "''" if value == "" else value
        console.print(f"  {option.key} = {value}", markup=False, soft_wrap=True)


@methods.command()
def diff(first: str, second: str) -> None:
    """How the compositions of two methods differ."""
    from policyopt.report.listing import difference

    console.print(difference(first, second), markup=False, soft_wrap=True)


def _quiet() -> None:
    """Our own display shows the progress; transformers' bars would tear it."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _out_of_memory(error: BaseException) -> bool:
    """By its name: commands that need no torch do not import it."""
    return type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


def _ours(error: BaseException) -> bool:
    """Errors that policyopt raises on purpose say what to do; a traceback would only hide it."""
    return type(error).__module__.startswith("policyopt.")


def main() -> None:
    """Entry point. Expected errors are one line on stderr and exit code 2; others keep their traceback."""
    # A verifier module:function may lie where the command is given; a console script does not look there.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        app(prog_name="policyopt")
    except Exception as error:
        if not _ours(error) and not _out_of_memory(error):
            raise
        said = str(error) if _ours(error) else f"{MEMORY}: {error}"
        errors.print(f"error: {said}", markup=False, soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            errors.print(note, markup=False, soft_wrap=True)
        sys.exit(WRONG_INPUT)
