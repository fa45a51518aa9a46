"""Running a study: every arm on the same seeds, and what paired intervals tell apart."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch

from policyopt.claim import Claim, ClaimError, Study
from policyopt.evaluation.experiments import experiment_of
from policyopt.evaluation.experiments._common import Outcome
from policyopt.evaluation.statistics import paired_difference, seed_interval
from policyopt.evaluation.verify import build
from policyopt.methods import keys, module

SAME = "cannot tell apart"
Progress = Callable[[int, int, str], None]


def study_of(key: str) -> Study:
    """The study of a method: attribute `study` of its module. ClaimError: it has none; names those that have."""
    found = vars(module(key)).get("study")
    if not isinstance(found, Study):
        having = [other for other in keys() if isinstance(vars(module(other)).get("study"), Study)]
        raise ClaimError(f"{key!r} has no study; there are {having}")
    return found


def run_study(key: str, seeds: int | None = None, rounds: int | None = None, progress: Progress | None = None) -> dict:
    """JSON data: means of every arm with t intervals over seeds, and of all pairs that are compared the paired
    difference, whose intervals hold together within a group (Bonferroni)."""
    asked = study_of(key)
    count, length = seeds or asked.seeds, rounds or asked.rounds
    if count < 2:
        raise ClaimError(f"a study needs 2 seeds or more, not {count}")
    run = experiment_of(_as_claim(asked))
    found: dict[str, list[Outcome]] = {}
    for place, arm in enumerate(asked.arms):
        method = build(arm, key)
        for seed in range(count):
            found.setdefault(arm.name, []).append(run(method, seed, length, **arm.given))
            if progress is not None:
                progress(place * count + seed + 1, len(asked.arms) * count, f"{arm.name}: seed {seed}")
    groups = {name: [arm.name for arm in arms] for name, arms in asked.groups().items()}
    return {
        "key": key,
        "question": asked.question,
        "observable": asked.observable,
        "direction": "higher" if asked.higher_is_better else "lower",
        "smallest_effect": asked.smallest_effect,
        "seeds": count,
        "rounds": length,
        "arms": [_arm(name, outcomes) for name, outcomes in found.items()],
        "differences": [said for names in groups.values() for said in _differences(names, found, asked)],
        "versions": {"policyopt": importlib.metadata.version("policyopt"), "torch": torch.__version__.split("+")[0]},
    }


def _as_claim(asked: Study) -> Any:
    """What `experiment_of` reads of a claim."""
    first, second = asked.arms[:2]
    return Claim(
        statement=asked.question,
        source="",
        experiment=asked.experiment,
        observable=asked.observable,
        higher_is_better=asked.higher_is_better,
        smallest_effect=asked.smallest_effect,
        treated=first,
        baseline=second,
        rounds=asked.rounds,
    )


def _arm(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    values = [outcome.value for outcome in outcomes]
    interval = seed_interval(values)
    notes = {note: sum(o.notes[note] for o in outcomes) / len(outcomes) for note in outcomes[0].notes}
    return {
        "name": name,
        "values": values,
        "mean": interval.estimate,
        "interval": [interval.low, interval.high],
        "rows": sum(outcome.rows for outcome in outcomes) / len(outcomes),
        "notes": notes,
    }


def _differences(names: Sequence[str], found: dict[str, list[Outcome]], asked: Study) -> list[dict[str, Any]]:
    pairs = list(combinations(names, 2))
    said = []
    for first, second in pairs:
        one, other = ([outcome.value for outcome in found[name]] for name in (first, second))
        gap = paired_difference(one, other, 1 - 0.05 / len(pairs))
        sign = 1 if asked.higher_is_better else -1
        low, high = sorted((sign * gap.low, sign * gap.high))
        said.append(
            {
                "first": first,
                "second": second,
                "difference": gap.estimate,
                "interval": [gap.low, gap.high],
                "finding": finding(first, second, low, high, asked.smallest_effect),
            }
        )
    return said


def finding(first: str, second: str, low: float, high: float, smallest: float) -> str:
    """What an interval low ... high of how much better the first is says."""
    if low <= 0 <= high:
        return SAME
    better, least = (first, low) if low > 0 else (second, -high)
    return f"{better} is better" + ("" if least >= smallest else f", perhaps by less than {smallest:g}")
