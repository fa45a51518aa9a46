"""A world whose rows have lengths, and tables that can be told things."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.ops.groups import places
from policyopt.ops.random import derive, uniforms
from policyopt.policies.linear import Linear
from policyopt.types import Batch, Finish, StepKind, Tasks, empty_batch


@dataclass(frozen=True)
class LengthWorld:
    """A row is one choice, of its length 1 ... `longest`: as many own steps pass, of which the first alone is trained.
    It is right with probability `reliable` if it is as long as its task needs, else with probability `lucky`.

    needs (N,). told: budgets that a row may be announced (row column `budget`), in ascending order; one that is not
    within 0.5 of one of them says nothing. state: task * (1 + len(told)) + level, 1 ... of what is announced, else 0.
    """

    needs: Tensor
    longest: int = 40
    reliable: float = 0.9
    lucky: float = 0.0
    told: tuple[float, ...] = ()
    seed: int = 0
    instructions = ("budget",)

    @property
    def size(self) -> int:
        return len(self.needs)

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def level(self, budget: Tensor) -> Tensor:
        """(B,) 0 for what says nothing."""
        if not self.told:
            return torch.zeros_like(budget, dtype=torch.int64)
        gap = (budget[:, None].double() - torch.tensor(self.told, dtype=torch.float64)).abs()
        gap = torch.where(gap.isnan(), torch.inf, gap)
        return torch.where((gap <= 0.5).any(1), gap.argmin(1) + 1, 0)

    def start(self, tasks: Tasks) -> Batch:
        none = torch.zeros(len(tasks), 0, dtype=torch.int64)
        batch = empty_batch(tasks, {"_state": none, "_step": none})
        level = self.level(tasks.row["budget"]) if "budget" in tasks.row else 0
        group = batch.row["group"]
        noise = group * 1_000_003 + places(group) + derive(self.seed, "right") % 2**40
        return batch.with_rows({"_state": tasks.id * (1 + len(self.told)) + level, "_noise": noise})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        own = (torch.arange(self.longest) <= step[:, None]) & live[:, None]
        first = torch.zeros_like(own)
        first[:, 0] = live
        state = batch.row["_state"][:, None].expand(-1, self.longest)
        added = batch.append(
            {
                "kind": own.to(torch.uint8) * int(StepKind.OWN),
                "train": first,
                "behaviour": torch.where(first, logp[:, None], 0.0),
                "version": torch.full_like(state, version),
                "_state": state,
                "_step": torch.where(own, step[:, None], 0),
            }
        )
        return added.with_rows({"finish": torch.where(live, int(Finish.STOPPED), batch.row["finish"])})

    def grade(self, batch: Batch) -> Tensor:
        long = batch.lengths >= self.needs[batch.row["task"]]
        chance = torch.where(long, self.reliable, self.lucky)
        return (uniforms(batch.row["_noise"], 0, 1)[:, 0] < chance).to(torch.get_default_dtype())

    def accuracy(self, table: Tensor) -> Tensor:
        """(N,) chance that a row is right, from probabilities (N, longest) of lengths."""
        enough = (torch.arange(1, self.longest + 1) >= self.needs[:, None]).to(table)
        return (table * (enough * self.reliable + (1 - enough) * self.lucky)).sum(1)


def mean_length(table: Tensor) -> Tensor:
    """(N,) expected length, from probabilities (N, longest)."""
    return (table * torch.arange(1, table.shape[1] + 1).to(table)).sum(1)


def length_spread(table: Tensor) -> Tensor:
    """(N,) standard deviation of the length."""
    lengths = torch.arange(1, table.shape[1] + 1).to(table)
    return ((table * (lengths - mean_length(table)[:, None]) ** 2).sum(1)).sqrt()


def told_table(logits: Tensor, told: int) -> Linear:
    """Logits (N, V) of tasks and an addition for each of `told` things that a row may be told, shared by all tasks and
    0 at first: state = task * (1 + told) + what was told (0: nothing)."""
    tasks = torch.eye(len(logits)).repeat_interleave(1 + told, 0)
    level = torch.cat([torch.zeros(1, told), torch.eye(told)]).repeat(len(logits), 1)
    return Linear(torch.cat([tasks, level], 1), torch.cat([logits, logits.new_zeros(told, logits.shape[1])]))


def chances(policy: Linear, size: int, level: Tensor | None = None) -> Tensor:
    """(size, V) float64 probabilities of every task; level (size,): what each is told, else nothing."""
    count = len(policy.features) // size
    state = torch.arange(size) * count + (0 if level is None else level)
    with torch.no_grad():
        return policy.preferences(state).double().softmax(-1)


def around(length: int, longest: int, tasks: int, deviation: float = 5.0) -> Tensor:
    """(tasks, longest) logits of lengths that are normal around `length`."""
    lengths = torch.arange(1, longest + 1, dtype=torch.get_default_dtype())
    return (-((lengths - length) ** 2) / (2 * deviation**2)).expand(tasks, -1).clone()


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's, 0 where one does not vary."""
    both = torch.stack([x.double(), y.double()])
    return float(torch.corrcoef(both)[0, 1]) if bool((both.std(1) > 0).all()) else 0.0
