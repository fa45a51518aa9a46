"""Handing parts of a recipe's run over to actors of a Ray cluster. What they hold is built from the same recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import yaml

from policyopt.compose import Method
from policyopt.policies.language import Language, LanguageReward
from policyopt.recipe.build import Built, build
from policyopt.recipe.language.tasks import Judging
from policyopt.recipe.schema import make_recipe
from policyopt.runtime.cluster import Crew, Needs, connect
from policyopt.runtime.invariants import written_models
from policyopt.runtime.spread import Replica, Scorer, Spread, SpreadGrader, SpreadModel
from policyopt.worlds.grading import Grader


def hand_over(built: Built) -> None:
    """Let samplers generate, graders grade, and scorers hold the models that are given, as `runtime` says."""
    asked, run, opened = built.recipe.runtime, built.run, built.opened
    slots = asked.samplers * asked.cpus + asked.graders + asked.scorers * asked.cpus
    opened.callback(connect(asked.address, max(1, -(-int(100 * slots) // 100))))
    needs, text = Needs(asked.cpus, asked.gpus), built.recipe.yaml()

    def crew(kind: str, count: int, make: Any, needs: Needs) -> Crew:
        made = Crew(kind, count, make, needs, asked.deadline)
        opened.callback(made.close)
        return made

    threads = max(1, int(asked.cpus))
    samplers = crew("sampler", asked.samplers, partial(sampler, text, threads), needs)
    run.engine = Spread(run.engine, built.policy, lambda: run.worlds, samplers)
    if asked.graders:
        for name, world in run.worlds.items():
            judge = getattr(world, "judge", None)
            if isinstance(judge, Judging):
                held = judge.grader
                make = partial(Grader, held.verifier, held.entries, held.limits)
                grader: Any = SpreadGrader(crew("grader", asked.graders, make, Needs(1)))
                run.worlds[name] = replace(world, judge=Judging(grader))
    names = _frozen(built) if asked.scorers else []
    if names:
        scorers = crew("scorer", asked.scorers, partial(scorer, text, names, threads), needs)
        run.models.update({name: SpreadModel(name, scorers) for name in names})
        built.subject.models = dict(run.models)  # this process lets go of their weights


def _built(text: str, threads: int) -> Built:
    """The run of a recipe as one process has it."""
    torch.set_num_threads(threads)
    return build(make_recipe({**yaml.safe_load(text), "runtime": {}}))


def sampler(text: str, threads: int) -> Replica:
    """Made in a sampler."""
    built = _built(text, threads)
    return Replica(built.policy, built.run.worlds, built.run.engine)


def scorer(text: str, names: Sequence[str], threads: int) -> Scorer:
    """Made in a scorer."""
    built = _built(text, threads)
    return Scorer({name: built.run.models[name] for name in names})


def _frozen(built: Built) -> list[str]:
    """Models from folders that are asked for log-probabilities or rewards, and that nothing writes."""
    methods = [stage.method for stage in built.program.stages]
    changed = {name for method in methods for name in written_models(method)}
    return [
        name
        for name in built.recipe.models
        if name not in changed
        and type(built.run.models[name]) in (Language, LanguageReward)
        and not any(_whole(method, name) for method in methods)
    ]


def _whole(method: Method, name: str) -> bool:
    """Whether whole distributions of a model are needed, or a copy of it."""
    copied = any(getattr(spec, "of", "") == name for spec in method.models.values())
    return copied or any(role.full for role in method.roles.values() if role.model == name)
