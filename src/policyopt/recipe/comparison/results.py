"""From the folders of finished runs to the record of a comparison."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from policyopt.evaluation.comparison_record import ArmRecord, ComparisonRecord, RunRecord, began_alike, other_tasks
from policyopt.methods import load
from policyopt.recipe.base import RecipeError
from policyopt.recipe.budget import Spent
from policyopt.recipe.comparison.plan import Job, Plan
from policyopt.recipe.outcome import MEASURES, Measure
from policyopt.runtime.folder import RunFolder, read_json
from policyopt.runtime.journal import read

PREFERRED = ("pass_at_1", "preference_accuracy", "return_sampled", "reward", "greedy")
"""Measures by which runs are compared unless the user says so: of the policy as it is, with the least noise."""


def chosen_measure(plan: Plan, measured: Mapping[str, Any]) -> str:
    """The name of the measure that the plan means. RecipeError: the evaluation has none of that name."""
    known = [name for name in measured if f"{name}_interval" in measured]
    if plan.measure and plan.measure not in known:
        raise RecipeError(f"measure {plan.measure!r} is not measured by this recipe's evaluation; it has {known}")
    return plan.measure or next((name for name in PREFERRED if name in known), known[0])


def is_finished(job: Job) -> bool:
    return RunFolder(job.folder).summary.is_file()


def measured_of(job: Job) -> dict[str, Any]:
    """Every measure at the end of a finished run."""
    return read_json(RunFolder(job.folder).results / "after.json")["measured"]


def value_of(plan: Plan, job: Job) -> float:
    """What a finished run is judged by."""
    found = measured_of(job)
    return float(found[chosen_measure(plan, found)])


def run_record(plan: Plan, job: Job) -> RunRecord:
    """A finished run."""
    folder = RunFolder(job.folder)
    last = len(plan.recipe["stages"]) - 1
    start = sum(stage["steps"] for stage in plan.recipe["stages"][:-1])
    lines = read(folder.cost)[start:]
    spent, after = Spent.of(lines), measured_of(job)
    name = chosen_measure(plan, after)
    before = read_json(folder.results / f"stage-{last}.json")
    curve = [(0.0, before["measured"][name])]
    for point in range(1, plan.budget.evaluations):
        path = folder.results / f"along-{point}.json"
        # A run whose last round was long can pass several points at once, or end before the last one.
        if path.is_file():
            curve.append((point / plan.budget.evaluations, read_json(path)["found"]["measured"][name]))
    curve += [(point / plan.budget.evaluations, after[name]) for point in range(len(curve), plan.budget.evaluations)]
    curve.append((1.0, after[name]))
    return RunRecord(
        arm=job.arm,
        seed=job.seed,
        curve=tuple(curve),
        measured={key: value for key, value in after.items() if isinstance(value, int | float)},
        rounds=spent.rounds,
        tokens=spent.tokens,
        samples=spent.samples,
        seconds=round(spent.seconds, 3),
        beginning=read_json(folder.results / "beginning.json")["policy"],
        tasks=tuple(line["tasks"] for line in lines),
    )


def comparison_record(
    plan: Plan,
    jobs: Sequence[Job],
    tried: Mapping[str, Mapping[str, float]],
    chosen: Mapping[str, Any],
    failed: Mapping[str, str],
    command: str,
) -> ComparisonRecord:
    """Of the runs that are finished. failed: errors by label of a job."""
    finished = [job for job in jobs if is_finished(job)]
    if not finished:
        raise RecipeError(f"no run of the comparison has finished; the first error: {next(iter(failed.values()), '')}")
    records = [run_record(plan, job) for job in finished]
    name = chosen_measure(plan, measured_of(finished[0]))
    measure = MEASURES.get(name) or Measure(name.replace("pass_at_", "pass@"))
    arms = []
    for arm, section in plan.arms.items():
        method = section.method or arm
        lost = {str(job.seed): failed[job.label] for job in jobs if job.arm == arm and job.label in failed}
        title = load(method).about.title
        arms.append(ArmRecord(arm, method, title, section.options, chosen.get(arm), tried.get(arm, {}), lost))
    return ComparisonRecord(
        name=plan.name,
        measure=name,
        label=measure.label,
        over=read_json(RunFolder(finished[0].folder).results / "after.json")["over"],
        higher_is_better=not plan.lower_is_better,
        unit=plan.budget.unit,
        amount=plan.budget.amount,
        evaluations=plan.budget.evaluations,
        shared_rounds=sum(stage["steps"] for stage in plan.recipe["stages"][:-1]),
        seeds=tuple(range(plan.seeds)),
        arms=tuple(arms),
        runs=tuple(records),
        baseline=plan.baseline,
        tuning=None if plan.tune is None else plan.tune.model_dump(mode="json"),
        began_alike=began_alike(records),
        other_tasks=other_tasks(records),
        command=command,
        versions={"policyopt": importlib.metadata.version("policyopt"), "torch": torch.__version__.split("+")[0]},
    )
