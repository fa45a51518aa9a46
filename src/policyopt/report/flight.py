"""The flight check in print: a line a check, and what to do where something is wrong."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from policyopt.evaluation.flight import Finding, Flight, Verdict, findings

COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAULT: "red", Verdict.SKIPPED: "dim"}
WIDTH = 46


def show(flight: Flight, console: Console) -> int:
    """Print every finding; the number of faults."""
    found = findings(flight)
    for leg in flight.legs:
        console.print(f"[bold]stage {leg.index}: {escape(leg.method)}[/bold]")
        _lines([one for one in found if one.stage == leg.index], console)
    console.print("[bold]recipe[/bold]")
    _lines([one for one in found if one.stage is None], console)
    counts = {verdict: sum(one.said.verdict is verdict for one in found) for verdict in Verdict}
    console.print(
        f"{counts[Verdict.FAULT]} faults, {counts[Verdict.WARN]} warnings, {counts[Verdict.OK]} ok, "
        f"{counts[Verdict.SKIPPED]} not applicable; {flight.seconds:.1f} s"
    )
    return counts[Verdict.FAULT]


def _lines(found: list[Finding], console: Console) -> None:
    for one in found:
        said = one.said
        mark = f"[{COLOURS[said.verdict]}]{said.verdict:<14}[/]"
        console.print(f"  {mark} {one.check:<{WIDTH}} {escape(said.value)}", soft_wrap=True, highlight=False)
        if said.remedy:
            console.print(f"  {'':14} -> {escape(said.remedy)}", soft_wrap=True, highlight=False)
