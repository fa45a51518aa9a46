"""Everything a comparison measured, as one record that is written to JSON and from which every report is made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policyopt.evaluation.comparison import Comparison, compare
from policyopt.evaluation.statistics import Interval, seed_interval
from policyopt.plain import from_json as from_text


@dataclass(frozen=True)
class RunRecord:
    """One run. curve: (share of the budget, value), from the beginning to the end. measured: every measure at the end.
    beginning: digest of the policy it began with. tasks: digests of the tasks that each round drew."""

    arm: str
    seed: int
    curve: tuple[tuple[float, float], ...]
    measured: Mapping[str, float]
    rounds: int
    tokens: int
    samples: int
    seconds: float
    beginning: str
    tasks: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        return self.curve[-1][1]


@dataclass(frozen=True)
class ArmRecord:
    """method and the options in which it differs from the recipe; tuned: the value that was chosen, and the mean of
    every value that was tried; failed: error by seed."""

    name: str
    method: str
    title: str
    options: Mapping[str, Any]
    tuned: Any = None
    tried: Mapping[str, float] = dataclasses.field(default_factory=dict)
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonRecord:
    """measure, label: its name, and as people say it. over: what it was measured on. unit, amount: the budget.
    shared_rounds: that all arms of a seed have in common. began_alike: whether runs of a seed began with one policy.
    other_tasks: arms whose tasks differ from those of most."""

    name: str
    measure: str
    label: str
    over: str
    higher_is_better: bool
    unit: str
    amount: float
    evaluations: int
    shared_rounds: int
    seeds: tuple[int, ...]
    arms: tuple[ArmRecord, ...]
    runs: tuple[RunRecord, ...]
    baseline: str | None
    tuning: Mapping[str, Any] | None
    began_alike: bool
    other_tasks: tuple[str, ...]
    command: str
    versions: Mapping[str, str]

    def of(self, arm: str) -> list[RunRecord]:
        """Runs of an arm, in the order of seeds."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)

    @property
    def complete(self) -> list[str]:
        """Arms with a run of every seed; only these are compared."""
        return [arm.name for arm in self.arms if len(self.of(arm.name)) == len(self.seeds)]

    def compare(self) -> Comparison:
        values = {arm: [run.value for run in self.of(arm)] for arm in self.complete}
        baseline = self.baseline if self.baseline in values else None
        return compare(values, higher_is_better=self.higher_is_better, baseline=baseline)

    def curve(self, arm: str) -> list[tuple[float, Interval]]:
        """Mean over seeds with its interval, at every evaluation."""
        runs = self.of(arm)
        points = zip(*(run.curve for run in runs), strict=True)
        return [(point[0][0], seed_interval([value for _, value in point])) for point in points]


def began_alike(runs: Sequence[RunRecord]) -> bool:
    """Whether all runs of a seed began with the same policy."""
    return all(len({run.beginning for run in runs if run.seed == seed}) == 1 for seed in {run.seed for run in runs})


def other_tasks(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """Arms that draw other tasks, or in another order, than most arms, in the rounds that both have."""
    odd: dict[str, None] = {}
    for seed in {run.seed for run in runs}:
        drawn = {run.arm: run.tasks for run in runs if run.seed == seed}
        agree = {arm: sum(_same(mine, other) for other in drawn.values()) for arm, mine in drawn.items()}
        most = max(agree, key=lambda arm: agree[arm])
        odd |= dict.fromkeys(arm for arm, mine in drawn.items() if not _same(mine, drawn[most]))
    return tuple(sorted(odd))


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


def summary(record: ComparisonRecord) -> dict[str, Any]:
    """The findings, as JSON data."""
    found = record.compare()
    return {
        "ranking": [
            {"arm": p.arm, "mean": p.mean.estimate, "interval": [p.mean.low, p.mean.high], "rank": list(p.rank)}
            for p in found.places
        ],
        "pairs": [
            {
                "first": p.first,
                "second": p.second,
                "difference": p.difference.estimate,
                "interval": [p.difference.low, p.difference.high],
                "p_adjusted": p.p,
                "finding": str(p.finding),
                "seeds_that_would_probably_do": p.enough,
            }
            for p in found.pairs
        ],
        "level": found.level,
    }


def to_json(record: ComparisonRecord) -> str:
    """The record and its findings. Clocks stand under `seconds` alone; all else is equal for equal runs."""
    data = dataclasses.asdict(record)
    for run in data["runs"]:
        del run["tasks"]
        run["curve"] = [[round(share, 6), value] for share, value in run["curve"]]
    findings = summary(record) if len(record.complete) > 1 else None
    return json.dumps({**data, "findings": findings}, indent=1, allow_nan=False) + "\n"


class ReportError(ValueError):
    """A file that is no report of a comparison."""


def from_json(text: str) -> ComparisonRecord:
    """Of a report; what `to_json` leaves out (digests of tasks) is empty. ReportError: it is none."""
    try:
        return _reported(from_text(text))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(f"no report of a comparison: {error!r:.300}; make it again: policyopt compare") from error


def _reported(data: Any) -> ComparisonRecord:
    del data["findings"]
    data["arms"] = tuple(ArmRecord(**arm) for arm in data["arms"])
    data["runs"] = tuple(RunRecord(**{**run, "curve": tuple(map(tuple, run["curve"]))}) for run in data["runs"])
    for name in ("seeds", "other_tasks"):
        data[name] = tuple(data[name])
    return ComparisonRecord(**data)
