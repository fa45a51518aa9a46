"""The flight check of a recipe, or of a run where it stands: everything is built, a few batches are sampled, nothing is
trained or written."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from policyopt.compose import Program
from policyopt.evaluation.flight import Flight, Leg
from policyopt.evaluation.flight.collect import Grade, Order, Sizes, fly
from policyopt.evaluation.flight.grading import grade_world
from policyopt.evaluation.flight.record import Drift, Ends, Forecast
from policyopt.recipe.build import Built, build
from policyopt.recipe.schema import load_recipe
from policyopt.runtime.folder import RunFolder

EPISODES = 2000  # training episodes whose seeds are compared with those of the evaluation


def flight(target: str, changes: Sequence[str] = (), sizes: Sizes | None = None) -> Flight:
    """The flight of a recipe with `key=value` changes, or (a folder) of a run from its newest good checkpoint."""
    began = time.perf_counter()
    if Path(target).is_dir():
        folder = RunFolder.open(target)
        with build(load_recipe(folder.recipe, changes)) as built:
            found = folder.store().latest()
            if found is not None:
                built.run.load_state(found[1], built.program)
            return flown(built, sizes, began)
    with build(load_recipe(target, changes)) as built:
        return flown(built, sizes, began)


def flown(built: Built, sizes: Sizes | None = None, began: float | None = None) -> Flight:
    """The flight of what was built; its run is of no use for training afterwards."""
    began = time.perf_counter() if began is None else began
    recipe, sizes = built.recipe, sizes or Sizes()
    grade = _grade(recipe.kind)
    first = built.run.step
    legs: list[Leg] = []
    for index, stage in enumerate(built.program.stages):
        if stage.steps and stage.start + stage.steps > first:
            legs.append(fly(built.run, built.program, _order(built, index, first, grade), sizes))
            built.run.leave(stage)  # later stages may go back to what this one leaves
    ends, drift = _texts(built, legs)
    training, held_out = _tasks(built)
    return Flight(
        recipe=recipe.name,
        kind=recipe.kind,
        legs=tuple(legs),
        training=training,
        held_out=held_out,
        ends=ends,
        drift=drift,
        forecast=Forecast(_evaluation(built, legs), _memory(), _machine()),
        seconds=time.perf_counter() - began,
    )


def _order(built: Built, index: int, first: int, grade: Grade) -> Order:
    stage, section = built.program.stages[index], built.recipe.stages[index]
    return Order(
        index,
        built.recipe.kind,
        later=_trained_before(built.program, index, first),
        given={**section.options_for.get(section.method, {}), **section.options} if stage.steps else {},
        grade=grade,
    )


def _trained_before(program: Program, index: int, first: int) -> bool:
    """Whether a stage that is still to come trains the policy of another that follows it."""
    policy = program.stages[index].method.policy
    return any(
        stage.start + stage.steps > first and stage.steps and stage.method.policy == policy
        for stage in program.stages[:index]
    )


def _grade(kind: str) -> Grade:
    if kind != "language":
        return grade_world
    from policyopt.recipe.language.flight import grade_texts

    return grade_texts


# -- tasks -------------------------------------------------------------------------------------------------------------
def _texts(built: Built, legs: Sequence[Leg]) -> tuple[Ends | None, Drift | None]:
    if built.recipe.kind != "language":
        return None, None
    from policyopt.recipe.language.flight import drift_of, ends_of

    subject: Any = built.subject
    return ends_of(subject), drift_of(subject, legs)


def _tasks(built: Built) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What tells training and held-out tasks apart: prompts, or the seeds of episodes."""
    subject: Any = built.subject
    if built.recipe.kind == "language":
        from policyopt.recipe.language.flight import prompts_of

        return prompts_of(subject)
    if built.recipe.kind == "control" and built.recipe.evaluation is not None:
        seeds = [
            tuple(map(str, world.tasks(torch.arange(count)).row["_seed"].tolist()))
            for world, count in ((subject.worlds[0], EPISODES), (subject.held_out, built.recipe.evaluation.episodes))
        ]
        return seeds[0], seeds[1]
    return (), ()


# -- what it will cost -------------------------------------------------------------------------------------------------
def _evaluation(built: Built, legs: Sequence[Leg]) -> float:
    """Seconds of the evaluations before and after the last stage and along the way, for answers that cost what the
    sampled ones did."""
    costs = [leg.cost for leg in legs if leg.cost is not None and leg.samples]
    if built.recipe.kind != "language" or not costs:
        return 0.0
    subject: Any = built.subject
    if subject.held_out is None or subject.evaluation is None or subject.held_out.judge is None:
        return 0.0
    rows = subject.held_out.size * (1 + subject.evaluation.samples)
    every = subject.evaluation.every
    times = 2 if every is None else 2 + sum(stage.steps for stage in built.recipe.stages) // every
    return times * rows * costs[-1].gather / max(1.0, costs[-1].rows)


def _memory() -> int | None:
    """Bytes at the highest, of this process, or of the accelerator where there is one."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _machine() -> int | None:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.get_device_properties(0).total_memory
    try:
        import os

        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, AttributeError, ValueError):
        return None
