"""Attempts that are told something beside their task: budgets, what is remembered of the task, hints, drafts, patterns.
Probabilities, ratios and divergences are those under what a row was told."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.groups import group_count, places
from policyopt.ops.sequences import own_choices, total_reward
from policyopt.remembered import recall
from policyopt.sampling.instructions import instructed
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.seen import asked
from policyopt.types import NO_TOKEN, Batch, Tasks, concatenate


@dataclass(frozen=True)
class Words(Part, ABC):
    """What every row is told: (B,) numbers for tasks that are repeated once per attempt; nan tells nothing."""

    needs = "what rows are told"

    @abstractmethod
    def __call__(self, ctx: Context, tasks: Tasks) -> Tensor: ...


@dataclass(frozen=True)
class Shared(Words):
    """The attempts of a task are divided between values, in their order and as evenly as possible (HBPO's budgets)."""

    values: tuple[float, ...] = (512.0, 1024.0, 2048.0, 2560.0)

    def __post_init__(self) -> None:
        if not self.values:
            raise CompositionError("attempts share the values that they are told; name at least one")

    def __call__(self, ctx: Context, tasks: Tasks) -> Tensor:
        group = tasks.row["group"]
        place, size = places(group), group_count(group, torch.ones_like(group, dtype=torch.bool))
        known = torch.tensor(self.values, dtype=torch.get_default_dtype(), device=place.device)
        return known[place * len(self.values) // size]


@dataclass(frozen=True)
class Remembered(Words):
    """What the run remembers of the task under a name; `unknown` where nothing is (nan: nothing is said)."""

    memory: str = "median right length"
    unknown: float = 4096.0

    def __call__(self, ctx: Context, tasks: Tasks) -> Tensor:
        held = recall(ctx, self.memory, tasks.id)
        return torch.where(held > 0, held, self.unknown).to(torch.get_default_dtype())


@dataclass(frozen=True)
class MatchingPattern(Words):
    """The number of a pattern whose complexity is nearest to that of the task (TAPO, arXiv 2505.15692), ties at random
    for every attempt. complexities: of the patterns, in their order; empty: nothing is said. tasks: complexities of the
    tasks, in the order of their ids; empty: the world gives them as `complexity(ids) -> (B,)`."""

    complexities: tuple[float, ...] = ()
    tasks: tuple[float, ...] = ()

    def __call__(self, ctx: Context, tasks: Tasks) -> Tensor:
        if not self.complexities:
            return torch.full((len(tasks),), math.nan)
        if self.tasks:
            own = torch.tensor(self.tasks, dtype=torch.float64, device=tasks.id.device)[tasks.id]
        else:
            own = asked(ctx.world, "complexity", "how complex its tasks are")(tasks.id).double()
        gap = (own[:, None] - torch.tensor(self.complexities, dtype=torch.float64, device=own.device)).abs()
        nearest = gap <= gap.min(1, keepdim=True).values + 1e-9
        chance = torch.rand(gap.shape, generator=ctx.rng("patterns"), dtype=torch.float64).to(own.device)
        return torch.where(nearest, chance, -1.0).argmax(1).to(torch.get_default_dtype())


@dataclass(frozen=True)
class ToldGroup(Part):
    """`size` attempts of every task, each told what `words` says under the name `name` (row column of that name)."""

    size: int = 8
    name: str = "budget"
    words: Any = Shared()
    temperature: float = 1.0

    writes = named_by("name")

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw().repeat(self.size)
        told = instructed(ctx.world, tasks, self.name, self.words(ctx, tasks))
        return judge(ctx.extend(ctx.world.start(told), temperature=self.temperature))


@dataclass(frozen=True)
class HintedGroup(Part):
    """GHPO (arXiv 2507.10628): `size` attempts of every task; where none exceeds the reward `right`, the task is asked
    again with the first share of its solution as a hint, `levels` one after another, until one does. The last attempts
    at a task are its group. start: rounds of the stage without hints. Row column `hint`: the share that was shown."""

    size: int = 8
    levels: tuple[float, ...] = (0.25, 0.5, 0.75)
    start: int = 0
    right: float = 0.0
    temperature: float = 1.0

    writes = ("hint",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if any(not 0 < level <= 1 for level in self.levels) or list(self.levels) != sorted(self.levels):
            raise CompositionError(f"levels are shares of a solution in 0..1, ascending, not {self.levels}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks, done = draw(), []
        levels = (0.0, *(self.levels if ctx.stage_step >= self.start else ()))
        for level in levels:
            share = torch.full((len(tasks),), level)
            told = instructed(ctx.world, tasks, "hint", share.to(tasks.id.device)).repeat(self.size)
            rows = judge(ctx.extend(ctx.world.start(told), temperature=self.temperature))
            good = (total_reward(rows) > self.right) & rows.row["scored"]
            solved = torch.isin(tasks.row["group"], rows.row["group"][good])
            if level == 0:
                ctx.meter.mean("reward_unaided", total_reward(rows), rows.row["scored"])
                ctx.meter.add("hinted_tasks", float((~solved).sum()), len(tasks))
            last = level == levels[-1]
            done.append(rows if last else rows[torch.isin(rows.row["group"], tasks.row["group"][solved])])
            tasks = tasks[~solved]
            if not len(tasks):
                break
        return concatenate(done)


@dataclass(frozen=True)
class RefinedGroup(Part):
    """iGRPO (arXiv 2602.09000): `drafts` attempts of every task are judged and not trained on; `size` attempts are then
    told the best of them (ties: the first; best False: the first at all) and are the group. drafts 0: no draft is told.
    """

    size: int = 4
    drafts: int = 4
    best: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.drafts < 0:
            raise CompositionError(f"drafts must be 0 or more, not {self.drafts}")

    def __call__(self, ctx: Any, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        told = instructed(ctx.world, tasks, "draft", self.drafted(ctx, tasks, judge)).repeat(self.size)
        return judge(ctx.extend(ctx.world.start(told), temperature=self.temperature))

    def drafted(self, ctx: Any, tasks: Tasks, judge: Judge) -> Tensor:
        """(N, W) the own steps of every task's best draft, padded with NO_TOKEN."""
        nothing = torch.full((len(tasks), 1), NO_TOKEN, device=tasks.id.device)
        if not self.drafts:
            return nothing
        blank = instructed(ctx.world, tasks, "draft", nothing).repeat(self.drafts)
        rows = judge(ctx.extend(ctx.world.start(blank), temperature=self.temperature))
        reward = torch.where(rows.row["scored"], total_reward(rows), -torch.inf)
        ctx.meter.mean("reward_drafts", reward, rows.row["scored"])
        chosen = []
        for group in tasks.row["group"]:
            members = (rows.row["group"] == group).nonzero()[:, 0]
            chosen.append(int(members[reward[members].argmax() if self.best else 0]))
        return own_choices(ctx.models["policy"], rows[torch.tensor(chosen, device=rows.device)])
