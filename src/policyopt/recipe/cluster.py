"""Handing parts of a recipe's run over to actors of a Ray cluster. What they hold is built from the same recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import yaml

from policyopt.compose import Method, frozen, names_of
from policyopt.policies.checkpoint import load_language
from policyopt.policies.classifiers import LanguagePreference, LanguageReward
from policyopt.policies.language import Language
from policyopt.policies.reward_checkpoint import holds_reward, load_reward
from policyopt.recipe.base import RecipeError, RuntimeSection
from policyopt.recipe.build import Built, build
from policyopt.recipe.kinds import choose_device
from policyopt.recipe.language.tasks import Judging
from policyopt.recipe.schema import make_recipe
from policyopt.runtime.cluster import ATTEMPTS, Crew, Needs, connect
from policyopt.runtime.invariants import written_models
from policyopt.runtime.spread import Replica, Scorer, Spread, SpreadGrader, SpreadPolicy, SpreadPreference, SpreadReward
from policyopt.worlds.grading import Grader


def connected(asked: RuntimeSection) -> Callable[[], None]:
    """Connect to the cluster, or start one with room for everyone; returns what ends that."""
    peers = asked.samplers + asked.scorers + (asked.trainers if asked.trainers > 1 else 0)
    return connect(asked.address, max(1, math.ceil(peers * asked.cpus + asked.graders)))


@contextmanager
def placing(asked: RuntimeSection) -> Iterator[tuple[Needs, float]]:
    """Inside there is a cluster; what a trainer occupies in it, and how long it waits for the others, in which rank 0
    may have to give work of samplers and scorers to another one."""
    with ExitStack() as opened:
        opened.callback(connected(asked))
        yield Needs(asked.cpus, 1 if asked.gpus else 0), (ATTEMPTS + 1) * asked.deadline


def hand_over(built: Built) -> None:
    """Let samplers generate, graders grade, and scorers hold the models that are given, as `runtime` says."""
    asked, run, opened = built.recipe.runtime, built.run, built.opened
    opened.callback(connected(asked))
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
    if asked.scorers:
        names = given_away(built)
        scorers = crew("scorer", asked.scorers, partial(scorer, text, names, threads), needs)
        give_away(built, names, scorers)


def _built(text: str, threads: int) -> Built:
    """The run of a recipe as one process has it."""
    torch.set_num_threads(threads)
    return build(make_recipe({**yaml.safe_load(text), "runtime": {}}))


def sampler(text: str, threads: int) -> Replica:
    """Made in a sampler."""
    built = _built(text, threads)
    return Replica(built.policy, built.run.worlds, built.run.engine)


def scorer(text: str, names: Sequence[str], threads: int) -> Scorer:
    """Made in a scorer, which opens no other models."""
    torch.set_num_threads(threads)
    recipe: Any = make_recipe(yaml.safe_load(text))
    device, dtype = choose_device(recipe.policy.device), getattr(torch, recipe.policy.dtype)
    paths = {name: recipe.models[name] for name in names}
    return Scorer(
        {
            name: frozen((load_reward if holds_reward(path) else load_language)(path, dtype).to(device))
            for name, path in paths.items()
        }
    )


# -- what scorers hold -------------------------------------------------------------------------------------------------
def given_away(built: Built) -> list[str]:
    """Models from folders that are only asked what they say of rows. RecipeError: there are none."""
    methods, asked = [stage.method for stage in built.program.stages], built.recipe.runtime
    found = [
        name
        for name in built.recipe.models
        if type(built.run.models[name]) in _SPREAD and not any(_needed(m, name, asked.trainers) for m in methods)
    ]
    if not found:
        raise RecipeError(
            f"runtime.scorers={asked.scorers} have nothing to hold: of models {sorted(built.recipe.models)}, none is "
            "only asked for log-probabilities or rewards; give one (models.reference=FOLDER), or use runtime.scorers=0"
        )
    return found


def give_away(built: Built, names: Sequence[str], scorers: Crew | None) -> None:
    """This process lets go of the models' weights. scorers: None where rank 0 has them."""
    run = built.run
    run.models.update({name: _SPREAD[type(run.models[name])](name, scorers) for name in names})
    built.subject.models = dict(run.models)


_SPREAD = {Language: SpreadPolicy, LanguageReward: SpreadReward, LanguagePreference: SpreadPreference}


def _needed(method: Method, name: str, trainers: int) -> bool:
    """Whether a method does more with a model than to ask about rows: writes it, copies it, samples with it, needs its
    whole distributions; or asks it in between passes, which processes that train together do at different times."""
    roles = [role for role in method.roles.values() if role.model == name]
    beside = (method.sampling, method.selection, *method.models.values())
    return (
        name in written_models(method)
        or any(name in names_of(part) for part in beside)
        or any(role.full or (trainers > 1 and role.when == "step") for role in roles)
    )
