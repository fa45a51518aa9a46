"""A recipe that several processes train together: `lead` on rank 0, `follow` on the others.

What a rank does is a function of its `Ranks` and of what was asked for, whoever started the process: `policyopt train`
itself, torchrun, or another launcher.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from policyopt.recipe.base import Recipe, RecipeError
from policyopt.recipe.budget import Metered, Paced
from policyopt.recipe.build import Built, build
from policyopt.recipe.cluster import give_away, given_away
from policyopt.recipe.schema import load_recipe, make_recipe
from policyopt.recipe.training import Training
from policyopt.runtime import together
from policyopt.runtime.folder import RunFolder
from policyopt.runtime.progress import Display
from policyopt.runtime.ranks import Ranks
from policyopt.runtime.sharding import Generating, Sharded
from policyopt.runtime.spread import FromLead, SpreadModel


@dataclass(frozen=True)
class Asked:
    """A new run of a recipe (as YAML), or to go on with the run in a folder. trainers: processes."""

    trainers: int
    recipe: str = ""
    run: str = ""
    accept: bool = False

    def read(self) -> Recipe:
        if self.run:
            return load_recipe(RunFolder.open(self.run).recipe, [f"runtime.trainers={self.trainers}"])
        return make_recipe(yaml.safe_load(self.recipe))


def check_count(count: int, asked: Asked) -> None:
    """RecipeError: torchrun has started another number of processes."""
    if count != asked.trainers:
        raise RecipeError(
            f"this is one of {count} processes, but the recipe has runtime.trainers={asked.trainers}; give "
            f"runtime.trainers={count}, or torchrun --nproc-per-node {asked.trainers}"
        )


@contextlib.contextmanager
def lead(ranks: Ranks, asked: Asked, display: Display | None = None) -> Iterator[Training]:
    """The run as rank 0 has it; the others are told to stop at the end of the block."""
    check_count(ranks.count, asked)
    with ranks.phase("building the run"):
        if asked.run:
            training = Training.resume(asked.run, display, accept=asked.accept, trainers=asked.trainers)
        else:
            training = Training.start(asked.read(), display, together=True)
    with training:
        _join(training.built, ranks)
        word, session = together.Lead(ranks), training.session
        old = session.store
        session.store = together.SharedStore(old.folder, old.keep, old.resume, word)
        session.begin = lambda: word.tell("round", last=session.program.stages[-1].steps)
        try:
            yield training
        finally:
            with contextlib.suppress(RuntimeError):  # the store is gone, and the others with it
                word.tell("stop")


def follow(ranks: Ranks, asked: Asked) -> None:
    """What every other rank does until rank 0 says stop."""
    check_count(ranks.count, asked)
    with ranks.phase("building the run"):
        built = build(asked.read())
    with built:
        _join(built, ranks)
        budget = built.recipe.stages[-1].budget
        together.follow(ranks, built.run, built.program if budget is None else Paced(built.program.stages))


def _join(built: Built, ranks: Ranks) -> None:
    run, asked = built.run, built.recipe.runtime
    shared = FromLead if asked.on == "ray" else Generating
    ranks.place(run.device)
    if asked.scorers and not ranks.leads:
        give_away(built, given_away(built), None)
    for model in run.models.values():
        if isinstance(model, SpreadModel):
            model.ranks = ranks
    run.trainers = Sharded(ranks)
    if isinstance(run.engine, Metered):  # it counts the rows of all
        run.engine.engine = shared(run.engine.engine, ranks)
    else:
        run.engine = shared(run.engine, ranks)
