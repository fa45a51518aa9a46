"""From a checked recipe to a run: what every kind of policy has in common."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from policyopt.compose import Given, Method, Program, Stage
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.hindsight import Landmark
from policyopt.recipe.advice import advise
from policyopt.recipe.along import check_evaluation
from policyopt.recipe.base import Recipe, RecipeError, Section, StageSection, problems
from policyopt.recipe.kinds import Subject, kind_of
from policyopt.run import Run
from policyopt.runtime.ahead import check_ahead, corrected, weighs

log = logging.getLogger("policyopt")


@dataclass
class Built:
    """A run ready to start. Close it: graders have worker processes, environments may have windows."""

    recipe: Recipe
    run: Run
    program: Program
    subject: Subject
    opened: ExitStack

    @property
    def policy(self) -> Any:
        return self.subject.policy

    def close(self) -> None:
        self.opened.close()

    def __enter__(self) -> Built:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def build(recipe: Recipe) -> Built:
    """Everything a run needs; all that can be wrong with a recipe is found here, before any training."""
    sections = [_stage_tasks(recipe.tasks, index, stage) for index, stage in enumerate(recipe.stages)]
    methods = [_timed(_method(stage, recipe.runs or recipe.kind), recipe) for stage in recipe.stages]
    _check_models(recipe, methods)
    different = {repr(section): section for section in sections}
    names = {key: "world" if index == 0 else f"tasks {index}" for index, key in enumerate(different)}
    with ExitStack() as opened:
        subject = kind_of(recipe).build(recipe, methods, list(different.values()), opened)
        check_evaluation(recipe, subject)
        worlds = dict(zip(names.values(), subject.worlds, strict=True))
        stages = []
        for method, stage, section in zip(methods, recipe.stages, sections, strict=True):
            name = names[repr(section)]
            _check_codes(method, subject.policy)
            subject.check(method, worlds[name])
            advise(method, stage)
            other, seen = subject.view(method, worlds[name])
            name += other
            worlds[name] = seen
            stages.append(
                Stage(
                    replace(subject.adapt(method), world=name),
                    stage.steps,
                    keeps=kept(stage.name) if stage.name and stage.steps else "",
                    begins=kept(stage.start_from) if stage.start_from else "",
                )
            )
        run = Run(subject.models, worlds["world"], subject.engine, recipe.seed, worlds)
        return Built(recipe, run, Program(tuple(stages)), subject, opened.pop_all())


def _check_codes(method: Method, policy: Any) -> None:
    if any(isinstance(spec, Landmark) for spec in method.models.values()) and not hasattr(policy, "make_landmark"):
        raise RecipeError(
            f"method {method.key!r} acts under codes of recorded rows, which this {type(policy).__name__} policy does "
            "not have; for language give policy.hindsight: {size: 8}, for control use Python "
            "(policies.hindsight.HindsightActor)"
        )


def kept(name: str) -> str:
    """What the policy that a named stage ends with is called among the run's models."""
    return f"after {name}"


def _stage_tasks(tasks: Section, index: int, stage: StageSection) -> Section:
    """The recipe's tasks with the stage's changes."""
    if not stage.tasks:
        return tasks
    merged = tasks.model_dump(exclude_unset=True)
    for name, value in stage.tasks.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    try:
        return type(tasks).model_validate(merged)
    except ValidationError as error:
        raise RecipeError(problems(error, type(tasks), ("stages", str(index), "tasks"))) from error


def _method(stage: StageSection, kind: str) -> Method:
    for key, options in stage.options_for.items():
        override(load(key), options)  # those of the other methods must be right as well
    method = override(load(stage.method), {**stage.options_for.get(stage.method, {}), **stage.options})
    if kind not in method.about.policies:
        raise RecipeError(f"method {method.key!r} does not run on {kind} policies, only on {method.about.policies}")
    return method


def _timed(method: Method, recipe: Recipe) -> Method:
    """The method as it is trained when sampling runs ahead of it."""
    if not recipe.runtime.staleness or method.sampling.data:
        return method
    check_ahead(method)
    found = corrected(method)
    if not weighs(found):
        log.warning(
            "runtime.staleness=%d: no term of %s compares the policy with the one that sampled, so rows of an earlier "
            "policy count as if they were of the present one",
            recipe.runtime.staleness,
            method.key,
        )
    return found


def _check_models(recipe: Recipe, methods: Sequence[Method]) -> None:
    """Every model the user supplies is used, and every one a method asks for is there or made by an earlier stage."""
    wanted = {name for method in methods for name in method.models}
    idle = sorted(recipe.supplied - wanted)
    if idle:
        raise RecipeError(f"models {idle} have no effect: the methods of this recipe use {sorted(wanted)}; remove them")
    made: set[str] = set()
    for method, stage in zip(methods, recipe.stages, strict=True):
        for name, spec in method.models.items():
            if isinstance(spec, Given) and name not in recipe.supplied | made:
                spec.build(None, name)  # raises the error that says what to give
        made |= set(method.models) if stage.steps else set()
