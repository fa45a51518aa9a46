"""The report of a run whose stages branch: what every named policy reached, and which of them can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from rich.table import Table

from policyopt.evaluation.statistics import Interval, mean_interval
from policyopt.report.tables import table as in_markdown

SAME = "cannot tell apart"


@dataclass(frozen=True)
class Branch:
    """A named policy. begins: the name of the policy it began with; scores: by measure, one number per held-out task
    (nan: none), the tasks in the same order for all branches."""

    name: str
    method: str
    begins: str | None
    scores: Mapping[str, Sequence[float]]


def record(branches: Sequence[Branch], over: str, reward_models: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The report as JSON data: means with 95 % intervals over tasks, and paired differences of the first measure, whose
    intervals hold together (Bonferroni)."""
    named = {branch.name: branch for branch in branches}
    measures = list(dict.fromkeys(name for branch in branches for name in branch.scores))
    pairs = list(combinations(named, 2)) if measures else []
    return {
        "over": over,
        "seed": seed,
        "measures": measures,
        "branches": [
            {
                "name": branch.name,
                "method": branch.method,
                "begins": branch.begins,
                **{name: _interval(branch.scores[name]) for name in measures if name in branch.scores},
            }
            for branch in branches
        ],
        "differences": [
            _difference(named[first], named[second], measures[0], 1 - 0.05 / len(pairs)) for first, second in pairs
        ],
        "reward_models": reward_models,
    }


def _interval(values: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return {"mean": None, "interval": None, "tasks": 0}
    found = mean_interval(known, level)
    return {"mean": found.estimate, "interval": _bounds(found), "tasks": len(known)}


def _bounds(found: Interval) -> list[float | None]:
    """JSON has no infinities: an open end is null."""
    return [bound if np.isfinite(bound) else None for bound in (found.low, found.high)]


def _difference(first: Branch, second: Branch, measure: str, level: float) -> dict[str, Any]:
    gap = np.asarray(first.scores[measure]) - np.asarray(second.scores[measure])
    found = _interval(gap.tolist(), level)
    low, high = found["interval"] or (None, None)
    verdict = SAME
    if low is not None and low > 0:
        verdict = f"{first.name} is higher"
    elif high is not None and high < 0:
        verdict = f"{second.name} is higher"
    return {"first": first.name, "second": second.name, "measure": measure, "level": level, **found, "verdict": verdict}


def cells(found: Mapping[str, Any]) -> list[list[str]]:
    """Header and one row per policy."""
    rows = [["policy", "method", *found["measures"]]]
    for said in found["branches"]:
        rows.append([said["name"], said["method"], *(_cell(said.get(measure)) for measure in found["measures"])])
    return rows


def _cell(said: Mapping[str, Any] | None) -> str:
    if said is None or said["mean"] is None:
        return "-"
    low, high = ("?" if bound is None else f"{bound:.3f}" for bound in said["interval"])
    return f"{said['mean']:.3f} [{low}, {high}]"


def table(found: Mapping[str, Any]) -> Table:
    """For the terminal."""
    header, *rows = cells(found)
    made = Table(title=f"{found['over']}; 95 % intervals over tasks")
    for name in header:
        made.add_column(name)
    for row in rows:
        made.add_row(*row)
    return made


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What the differences say, one line a pair."""
    return [
        f"{said['measure']}, {said['first']} - {said['second']}: {_cell(said)}: {said['verdict']}"
        for said in found["differences"]
    ]


def markdown(found: Mapping[str, Any], title: str) -> str:
    """The page beside the run."""
    header, *rows = cells(found)
    lines = [f"# {title}", "", f"{found['over']}, seed {found['seed']}; 95 % intervals over tasks.", ""]
    lines += [in_markdown(header, rows, "l"), "", "## Differences", ""]
    lines += [f"- {line}" for line in sentences(found)]
    lines += ["", "Intervals of differences are paired by task and hold together (Bonferroni). One run of each method:"]
    lines += ["they say nothing about other seeds; `policyopt compare` does."]
    if found["reward_models"]:
        lines += ["", "## Reward models", ""]
        for name, said in found["reward_models"].items():
            low, high = said["accuracy_interval"]
            lines.append(
                f"- {name}: orders {100 * said['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of "
                f"{said['pairs']} held-out pairs as their labels do; calibration error {said['calibration_error']:.3f}"
            )
    return "\n".join(lines) + "\n"
