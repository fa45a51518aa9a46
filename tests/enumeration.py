"""Whole methods on a given batch, and worlds small enough to sum over every string."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Method, Part, Program, Stage
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Batch, Round, Scores, Tasks
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld
from support import numbers


@dataclass(frozen=True)
class Fixed(Part):
    """A sampler that hands out one batch, with columns that the batch already has."""

    batch: Batch
    columns: tuple[str, ...] = ("pair", "rank")

    @property
    def writes(self) -> tuple[str, ...]:
        return self.columns

    def __call__(self, ctx: Any, draw: Any, judge: Callable[[Batch], Batch]) -> Batch:
        return judge(self.batch)


class Grades:
    """A world that grades row b (`_row`) with the b-th number."""

    def __init__(self, grades: list[float] | Tensor):
        self.grades = torch.as_tensor(grades)

    def grade(self, batch: Batch) -> Tensor:
        return self.grades[batch.row["_row"]]


@dataclass(frozen=True)
class First:
    """What the first optimiser step of a method did: minus the change of every model's first table, the round."""

    gradient: Tensor
    round: Round
    run: Run

    @property
    def advantage(self) -> Tensor:
        """(B,) of methods whose steps share one."""
        credited = self.round.credited
        return (credited.step["advantage"] * credited.own).sum(1) / credited.lengths


def first_step(
    made: Method,
    models: Mapping[str, nn.Module],
    batch: Batch,
    world: Any = None,
    *,
    old: Tensor | None = None,
    model: str = "policy",
    table: str = "",
) -> First:
    """Run one round of a method, its sampler replaced by a batch and its update by one plain gradient step, so that
    the change of a table is minus the gradient of the loss. `old`: log-probabilities of the role `old`, else the
    policy's own."""
    if old is not None:
        batch = batch.with_scores({"old": Scores(old)})
    update = GradientSteps({name: SGD(1.0) for name in made.update.optimizers}, clip_norm=None)
    written = dict.fromkeys((*Fixed.__dataclass_fields__["columns"].default, *made.sampling.writes))
    made = replace(made, sampling=Fixed(batch, tuple(written)), update=update)
    run = Run(models, world, None)
    tables = dict(run.models[model].named_parameters()) if model in run.models else {}
    key = table or next(iter(tables))
    before = tables[key].detach().clone()
    done = next(rounds(run, Program((Stage(made, 1),))))
    return First(before - tables[key].detach(), done, run)


def weighted(made: Method, weight: Callable[[Any, Batch], Tensor]) -> Method:
    """Every objective term with a weight per unit, such as the probability of having sampled it."""
    return replace(made, objective=tuple(replace(term, weight=weight) for term in made.objective))


# -- strings of a tiny world --------------------------------------------------------------------------------------
def tiny_world() -> SequenceWorld:
    """One task, symbols 0 to 2, at most two steps, 0 ends: the strings are 0, 10, 11, 12, 20, 21, 22."""
    worth = numbers(3, 4, seed=11)

    def reward(strings: Tensor, task: Tensor) -> Tensor:
        second = strings[:, 1] if strings.shape[1] > 1 else torch.full_like(strings[:, 0], -1)
        return worth[strings[:, 0], second + 1]

    return SequenceWorld(1, 3, 2, reward, end=0)


def every_string(world: SequenceWorld) -> Tensor:
    """(strings, limit), -1 beyond the end symbol."""
    found = []
    for symbols in itertools.product(range(world.choices), repeat=world.limit):
        cut = symbols.index(world.end) + 1 if world.end in symbols else world.limit
        string = [*symbols[:cut], *[-1] * (world.limit - cut)]
        if string not in found:
            found.append(string)
    return torch.tensor(found)


def every_group(world: SequenceWorld, size: int) -> Batch:
    """Every ordered group of `size` strings, as rows that share a group id."""
    strings = every_string(world)
    index = torch.tensor(list(itertools.product(range(len(strings)), repeat=size)))
    batch = world.complete(world.tasks(torch.zeros(index.numel(), dtype=torch.int64)), strings[index.flatten()])
    columns = {"group": torch.arange(len(index)).repeat_interleave(size), "_row": torch.arange(index.numel())}
    return batch.with_rows(columns)


def row_logp(policy: Table, batch: Batch) -> Tensor:
    """(B,) log-probabilities of rows, with gradient."""
    return torch.where(batch.own, policy.score(batch).logp, 0.0).sum(1)


def group_probability(policy: Table, batch: Batch) -> Tensor:
    """(B,) the probability that the policy samples the whole group of the row."""
    logp = row_logp(policy, batch).detach()
    inverse = batch.row["group"].unique(return_inverse=True)[1]
    return torch.zeros(int(inverse.max()) + 1).index_add(0, inverse, logp)[inverse].exp()


def exact_policy_gradient(policy: Table, world: SequenceWorld, reward: Tensor | None = None) -> Tensor:
    """Gradient of E[R] by the sum over every string."""
    rows = every_group(world, 1)
    worth = world.grade(rows) if reward is None else reward
    value = (row_logp(policy, rows).exp() * worth).sum()
    return torch.autograd.grad(value, policy.logits)[0]


def choices_of(world: SequenceWorld, count: int) -> Batch:
    """One finished row per choice of a one-step world."""
    rows = world.complete(Tasks(torch.zeros(count, dtype=torch.int64)), torch.arange(count)[:, None])
    return rows.with_steps({"advantage": torch.zeros(count, 1)})
