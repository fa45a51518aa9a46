"""Testing a method's claim: both arms tuned alike, run on the same seeds, compared by a paired interval.

The verdict is computed here from the numbers and the criterion of the claim, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from policyopt.claim import Arm, Claim, ClaimError
from policyopt.compose import Method
from policyopt.evaluation.experiments import Experiment, experiment_of
from policyopt.evaluation.experiments._common import Outcome
from policyopt.evaluation.statistics import (
    Interval,
    Verdict,
    absolute_verdict,
    paired_difference,
    seed_interval,
    verdict,
)
from policyopt.methods import load, module
from policyopt.options import override
from policyopt.plain import from_json as from_text

TUNING_SEED = 1_000_000
"""Tuning runs use seeds from here on, so that no seed of the verdict was ever looked at."""

CURVE_POINTS = 60
STORE = Path(__file__).parent / "verifications"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ArmResult:
    """What one arm did: (S,) values, scores and rows over seeds, the mean curve, means of the notes."""

    label: str
    values: tuple[float, ...]
    scores: tuple[float, ...]
    rows: tuple[int, ...]
    chosen: float | None  # value of the tuned option
    tried: Mapping[str, float]  # candidate -> mean score in tuning
    curve: tuple[float, ...]
    notes: Mapping[str, float]


@dataclass(frozen=True)
class Verification:
    """The result of testing a claim. `seconds` (of wall clock) and `cpu` (of processor) are not stored with it: a
    stored result depends on code and seeds alone."""

    key: str
    criterion: Mapping[str, Any]
    seeds: tuple[int, ...]
    treated: ArmResult
    baseline: ArmResult
    difference: Interval
    level: Interval  # of the treated arm alone
    verdict: Verdict
    curve_label: str
    versions: Mapping[str, str]
    seconds: float = 0.0
    cpu: float = 0.0


def claim_of(key: str) -> Claim:
    """The claim of a method: attribute `claim` of its module."""
    found = vars(module(key.partition(":")[0])).get("claim")
    if not isinstance(found, Claim):
        raise ClaimError(f"{key!r} has no claim; define `claim = Claim(...)` in the method's file")
    return found


def build(arm: Arm, key: str = "") -> Method:
    """The method of an arm, with its overrides; an arm that names none is the method `key` itself."""
    method = load(arm.method or key)
    fields = {f.name for f in dataclasses.fields(Method)}
    whole = {key: value for key, value in arm.overrides.items() if key in fields}
    return override(replace(method, **whole), {k: v for k, v in arm.overrides.items() if k not in fields})


def verify(
    key: str,
    seeds: int | None = None,
    rounds: int | None = None,
    progress: Progress | None = None,
    claim: Claim | None = None,
) -> Verification:
    """Test a method's claim. `seeds` and `rounds` override the claim's, and with it its criterion: a result of
    fewer rounds is stored as what it is, not as the claim's."""
    begun, worked = time.perf_counter(), time.process_time()
    asked = claim or claim_of(key)
    asked = replace(asked, seeds=seeds or asked.seeds, rounds=rounds or asked.rounds)
    tune = asked.tuning
    total = 2 * (asked.seeds + (len(tune.candidates) * tune.seeds if tune else 0))
    tell = _counter(total, progress)
    runs = experiment_of(asked)
    treated, label = _arm(asked, asked.treated, build(asked.treated, key), runs, tell)
    baseline, _ = _arm(asked, asked.baseline, build(asked.baseline, key), runs, tell)
    if asked.budget == "rows":
        _check_budget(key, treated, baseline)
    difference = paired_difference(treated.values, baseline.values)
    return Verification(
        key=load(key).key,
        criterion=asked.criterion(),
        seeds=tuple(range(asked.seeds)),
        treated=treated,
        baseline=baseline,
        difference=difference,
        level=seed_interval(treated.values),
        verdict=judge(asked, treated.values, difference),
        curve_label=label,
        versions={"policyopt": importlib.metadata.version("policyopt"), "torch": torch.__version__.split("+")[0]},
        seconds=time.perf_counter() - begun,
        cpu=time.process_time() - worked,
    )


def judge(claim: Claim, treated: tuple[float, ...], difference: Interval) -> Verdict:
    """The verdict on the difference; with a threshold, both must be shown, and either can contradict."""
    found = [verdict(difference, claim.smallest_effect, higher_is_better=claim.higher_is_better)]
    if claim.threshold is not None:
        found.append(absolute_verdict(treated, claim.threshold, higher_is_better=claim.higher_is_better))
    for worst in (Verdict.CONTRADICTED, Verdict.NOT_SHOWN):
        if worst in found:
            return worst
    return Verdict.SHOWN


def _counter(total: int, progress: Progress | None) -> Callable[[str], None]:
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    return tell


def _arm(claim: Claim, arm: Arm, method: Method, run: Experiment, tell: Callable[[str], None]) -> tuple[ArmResult, str]:
    """Tune an arm, then run it on the seeds of the verdict."""
    tune = claim.tuning
    tried: dict[float, float] = {}
    for value in tune.candidates if tune else ():
        scores = []
        for seed in range(TUNING_SEED, TUNING_SEED + tune.seeds):  # type: ignore[union-attr]
            scores.append(run(_tuned(method, claim, value), seed, claim.rounds, **arm.given).score)
            tell(f"{arm.name}: tuning")
        tried[value] = sum(scores) / len(scores)
    # max keeps the first among equals.
    chosen = max(tried, key=lambda value: tried[value]) if tried else None
    outcomes = []
    for seed in range(claim.seeds):
        outcomes.append(run(_tuned(method, claim, chosen), seed, claim.rounds, **arm.given))
        tell(f"{arm.name}: seed {seed}")
    return _result(arm.name, outcomes, chosen, tried), outcomes[0].curve_label


def _tuned(method: Method, claim: Claim, value: float | None) -> Method:
    return method if value is None or claim.tuning is None else override(method, {claim.tuning.option: value})


def _result(label: str, outcomes: list[Outcome], chosen: float | None, tried: Mapping[float, float]) -> ArmResult:
    curves = [outcome.curve for outcome in outcomes]
    mean = [sum(points) / len(points) for points in zip(*curves, strict=True)]
    every = max(1, math.ceil(len(mean) / CURVE_POINTS))
    names = outcomes[0].notes
    return ArmResult(
        label=label,
        values=tuple(_short(o.value) for o in outcomes),
        scores=tuple(_short(o.score) for o in outcomes),
        rows=tuple(o.rows for o in outcomes),
        chosen=chosen,
        tried={str(value): _short(score) for value, score in tried.items()},
        curve=tuple(_short(x) for x in mean[::every]),
        notes={name: _short(sum(o.notes[name] for o in outcomes) / len(outcomes)) for name in names},
    )


def _short(x: float) -> float:
    """Six significant digits: more would only show the order of additions of one machine."""
    return float(f"{x:.6g}")


def _check_budget(key: str, treated: ArmResult, baseline: ArmResult) -> None:
    if treated.rows != baseline.rows:
        raise ClaimError(
            f"{key}: both arms need the same number of rows on every seed, got {treated.rows} and {baseline.rows}; "
            "give them equal counts and group sizes by overrides"
        )


# -- storing -----------------------------------------------------------------------------------------------------
def to_json(result: Verification) -> str:
    """Diffable: no dates, no wall time, sorted as declared, one value a line."""
    data = dataclasses.asdict(result)
    del data["seconds"], data["cpu"]
    data["verdict"] = str(result.verdict)
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Verification:
    """Of what `to_json` wrote. ClaimError: it is something else."""
    try:
        return _stored(from_text(text))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ClaimError(f"no stored verification: {error!r:.300}; run `policyopt verify KEY` again") from error


def _stored(data: Any) -> Verification:
    def arm(side: Mapping[str, Any]) -> ArmResult:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in side.items()}
        return ArmResult(**fields)

    return Verification(
        key=data["key"],
        criterion=data["criterion"],
        seeds=tuple(data["seeds"]),
        treated=arm(data["treated"]),
        baseline=arm(data["baseline"]),
        difference=Interval(**data["difference"]),
        level=Interval(**data["level"]),
        verdict=Verdict(data["verdict"]),
        curve_label=data["curve_label"],
        versions=data["versions"],
    )


def save(result: Verification, folder: Path = STORE) -> Path:
    """Write KEY.json; the package's own folder ships with it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.key}.json"
    path.write_text(to_json(result), encoding="utf-8")
    return path


def stored(key: str, folder: Path = STORE) -> Verification | None:
    """The stored result of a method's *present* claim; None if there is none or the criterion has changed since."""
    path = folder / f"{key}.json"
    if not path.is_file():
        return None
    result = from_json(path.read_text(encoding="utf-8"))
    return result if dict(result.criterion) == claim_of(key).criterion() else None


def stored_verdict(key: str) -> Verdict:
    result = stored(key)
    return Verdict.UNVERIFIED if result is None else result.verdict
