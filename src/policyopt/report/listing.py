"""Methods side by side: a table of all, a comparison of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from policyopt.compose import About
from policyopt.evaluation.methods import diff, list_methods
from policyopt.methods import load

__all__ = ["difference", "list_methods", "markdown", "table"]

COLOURS = {"shown": "green", "contradicted": "red", "not shown": "yellow", "unverified": "dim"}


def table(methods: Sequence[dict[str, Any]], *, narrow: bool = False) -> Table:
    """What `list_methods` gives, for a terminal. narrow: without what is changed, so that titles can be read."""
    shown = Table(box=None, expand=True)
    shown.add_column("method", no_wrap=True)
    shown.add_column("title", no_wrap=True, overflow="ellipsis", ratio=3)
    if not narrow:
        shown.add_column("changes", no_wrap=True, overflow="ellipsis", ratio=2)
    shown.add_column("checks", justify="right", no_wrap=True)
    shown.add_column("claim", no_wrap=True)
    shown.add_column("effect", justify="right", no_wrap=True)
    shown.add_column("rows", justify="right", no_wrap=True)
    shown.add_column("CPU s", justify="right", no_wrap=True)
    for method in methods:
        verdict = method["verdict"]
        shown.add_row(
            method["key"],
            method["title"],
            *([] if narrow else [", ".join(method["axes"])]),
            str(method["conformance"]),
            f"[{COLOURS[verdict]}]{verdict}[/]",
            *_numbers(method),
        )
    return shown


def _numbers(method: dict[str, Any]) -> tuple[str, str, str]:
    """Effect, rows and CPU seconds; a cost that was not measured yet is a dash."""
    effect, cost, seconds = method["effect"], method["cost"], method["cpu_seconds"]
    said = "" if effect is None else f"{effect:+.1f}", "" if cost is None else f"{cost:.0f}"
    return *said, "-" if seconds is None else f"{seconds:g}"


def markdown(methods: Sequence[dict[str, Any]]) -> str:
    """The same as a page that links to the cards."""
    lines = [
        "# Methods",
        "",
        "One card per published method, by family. *Changes*: where it leaves the plain loop. *Claim*: the verdict",
        "that `policyopt verify KEY` computed. *Effect*: the difference in the claimed direction, in units of the",
        "smallest effect that counts. *Rows*: what the experiment costs a seed. *CPU s*: processor seconds of the",
        "whole test when it was last run (-: not measured yet). In another order:",
        "`policyopt methods list --sort key|family|verdict|effect|cost`.",
        "",
        "Experiments were shaped on development seeds (from 1,000,000 on): sizes, rates and the smallest effects were",
        "chosen there. Verdicts are of seeds from 0 on, under the criterion that the card states.",
        "",
        "| method | family | title | changes | claim | effect | rows | CPU s |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for method in methods:
        cells = [
            f"[{method['key']}]({method['key']}.md)",
            method["family"],
            method["title"],
            ", ".join(method["axes"]),
            method["verdict"],
            *_numbers(method),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def difference(first: str, second: str) -> str:
    """How the compositions of two methods differ, slot by slot."""
    rows = diff(first, second)
    if not rows:
        return f"{first} and {second} have the same composition"
    names: tuple[About, About] = (load(first).about, load(second).about)
    width = max(len(about.key) for about in names)
    blocks = [f"{slot}\n  {names[0].key:<{width}}  {one}\n  {names[1].key:<{width}}  {two}" for slot, one, two in rows]
    return "\n".join(blocks)
