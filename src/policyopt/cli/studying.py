"""`policyopt study`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from policyopt.cli.console import console, errors


def study(
    key: Annotated[str, typer.Argument(help="Method whose paper is a comparison, for example online_offline_gap.")],
    seeds: Annotated[int | None, typer.Option(help="Seeds of every arm. Default: the study's.", min=2)] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of every run. Default: the study's.", min=1)] = None,
    folder: Annotated[str, typer.Option(help="Where KEY.md and KEY.json are written.")] = "studies",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rerun the comparison of a paper at laptop scale and report it, with intervals over seeds."""
    from policyopt.evaluation.study import run_study
    from policyopt.methods import load
    from policyopt.report.study import markdown, sentences
    from policyopt.runtime.progress import counting

    with counting(errors) as bar:
        task = bar.add_task(key, total=None)
        found = run_study(
            key, seeds, rounds, lambda done, of, what: bar.update(task, completed=done, total=of, description=what)
        )
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    page = place / f"{key}.md"
    page.write_text(markdown(found, load(key).about.title), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for line in sentences(found):
        console.print(line, markup=False, soft_wrap=True)
    console.print(str(page), markup=False, soft_wrap=True)
