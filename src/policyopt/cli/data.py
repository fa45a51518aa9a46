"""Commands on data, before anything is trained."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from policyopt.cli.console import console

app = typer.Typer(help="Look at data before it is trained on.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at data before it is trained on."""


@app.command()
def stats(
    source: Annotated[str, typer.Argument(metavar="FILE", help="JSONL, a folder of `datasets`, or a recipe.")],
    held_out: Annotated[str | None, typer.Option(help="Evaluation data, to look for leakage.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a folder with several.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="NAME=FIELD: where numbers stand, or texts called otherwise.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model folder whose tokenizer counts lengths.")] = None,
    limit: Annotated[int | None, typer.Option(help="Tokens of an answer at most.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a preference set is like: length bias, ties, duplicates, contradictions, leakage, cut and empty answers."""
    from policyopt.recipe.language.data import Named, measured
    from policyopt.report.preference_data import page

    named = {}
    for pair in columns or []:
        name, equals, field = pair.partition("=")
        if not (name and equals and field):
            raise typer.BadParameter(f"columns are written NAME=FIELD, got {pair!r}")
        named[name] = field
    found = measured(Named(source, held_out, split, named, model, limit))
    if as_json:
        print(json.dumps({measure.key: measure.record() for measure in found}, indent=2))
    else:
        console.print(page(found))
