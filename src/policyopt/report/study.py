"""The report of a study in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policyopt.evaluation.statistics import Interval
from policyopt.report.tables import table


def markdown(found: Mapping[str, Any], title: str) -> str:
    """found: what `evaluation.study.run_study` returns."""
    notes = list(dict.fromkeys(note for arm in found["arms"] for note in arm["notes"]))
    header = ["arm", "mean, 95 % interval over seeds", *notes, "rows"]
    rows = [[arm["name"], _interval(arm), *_notes(arm, notes), f"{arm['rows']:,.0f}"] for arm in found["arms"]]
    lines = [
        f"# {title}",
        "",
        f"{found['question']}",
        "",
        f"Measured: {found['observable']} ({found['direction']} is better; {found['smallest_effect']:g} counts), "
        f"{found['seeds']} seeds, {found['rounds']} rounds. `policyopt study {found['key']}` runs it again.",
        "",
        table(header, rows, "lr"),
        "",
        "## What can be told apart",
        "",
        *(f"- {line}" for line in sentences(found)),
        "",
        "Differences are paired by seed; the intervals of a group of arms hold together (Bonferroni).",
    ]
    return "\n".join(lines) + "\n"


def sentences(found: Mapping[str, Any]) -> list[str]:
    """One line a pair."""
    return [
        f"{said['first']} - {said['second']}: {_difference(said)}: {said['finding']}" for said in found["differences"]
    ]


def _difference(said: Mapping[str, Any]) -> str:
    low, high = said["interval"]
    return str(Interval(said["difference"], low, high, 0.95))


def _interval(arm: Mapping[str, Any]) -> str:
    low, high = arm["interval"]
    return str(Interval(arm["mean"], low, high, 0.95))


def _notes(arm: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{arm['notes'][name]:.3f}" if name in arm["notes"] else "-" for name in names]
