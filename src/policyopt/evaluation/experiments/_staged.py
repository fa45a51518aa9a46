"""Methods that rounds of another one prepare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Fit
from policyopt.methods import load
from policyopt.options import override
from policyopt.run import Run
from policyopt.sampling.samplers import Group
from policyopt.train import rounds as train_rounds


@dataclass(frozen=True)
class Before:
    """What runs before the method: rounds of another that trains a model of its own, on as many tasks a round."""

    key: str = ""
    rounds: int = 0
    rate: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict)

    def stages(self, method: Method, rounds: int) -> Program:
        if not self.key:
            return Program((Stage(method, rounds),))
        first = override(load(self.key), {"update.learning_rate": self.rate, **self.options})
        first = replace(first, selection=method.selection)
        if isinstance(first.sampling, Group):
            first = replace(first, sampling=method.sampling)
        return Program((Stage(first, self.rounds), Stage(method, rounds)))


def staged(program: Program, world: Any, models: dict[str, Any], seed: int, watch: Callable[[Run], float]) -> Fit:
    """`fit` of a program. Rows are those that were generated; recorded ones are not counted."""
    engine = CountingEngine()
    run = Run(models, world, engine, seed)
    watched = [watch(run) for _ in train_rounds(run, program)]
    return Fit(run, engine.rows, tuple(watched))
