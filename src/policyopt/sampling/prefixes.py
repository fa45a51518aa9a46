"""Prompts that are continued from the beginnings of their own best answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_std
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.seen import rewinding
from policyopt.types import Batch, concatenate


def beginnings(lines: int, count: int, decay: float, rng: torch.Generator) -> Tensor:
    """(count,) numbers of lines 1 ... lines, drawn with replacement, n with probability ~ decay^(n - 1)."""
    weight = decay ** torch.arange(lines, dtype=torch.float64)
    return 1 + torch.multinomial(weight, count, replacement=True, generator=rng)


@dataclass(frozen=True)
class PrefixGroup(Part):
    """`size` attempts of every task; tasks whose rewards differ (population deviation of at least `spread`) stay. Where
    the best attempt (the first among equals) has a reward of at least `good`, beginnings of it are prompts of their
    own: ceil(`share` m) of its m lines' prefixes, drawn with replacement, early ones more often (`decay`), each a group
    of `size` continuations whose prefix is not trained (ReST-GRPO, arXiv 2508.19576).

    steps: of a line. A prefix always leaves a step to take. If no task stays, all attempts are returned. Row column
    `prefix`: steps that were given.
    """

    size: int = 8
    spread: float = 0.05
    good: float = 0.9
    share: float = 0.5
    decay: float = 0.95
    steps: int = 16
    temperature: float = 0.7

    writes = ("prefix",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.spread < 0 or self.share < 0 or not 0 < self.decay <= 1 or self.steps < 1:
            raise CompositionError(
                "need spread and share of 0 or more, 0 < decay <= 1 and steps of at least 1, got "
                f"{self.spread}, {self.share}, {self.decay} and {self.steps}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        rows = judge(attempt(ctx, draw(), self.size, self.temperature))
        rows = rows.with_rows({"prefix": torch.zeros_like(rows.row["task"])})
        scored, reward = rows.row["scored"], total_reward(rows)
        kept = rows[group_std(reward, rows.row["group"], scored, 0) >= self.spread]
        ctx.meter.add("kept_tasks", len(kept.row["group"].unique()), len(rows.row["group"].unique()))
        if not len(kept):
            return rows
        best, given = self.prefixes(ctx, kept)
        if not len(best):
            return kept
        number = torch.arange(len(best), device=best.device)
        # The upper half of the round's group ids: drawn tasks count from the lower end.
        begun = rewinding(ctx.world)(kept[best], given)
        begun = begun.with_rows({"group": (ctx.step << 20) + (1 << 19) + number, "prefix": given})
        begun = begun.with_steps({"train": torch.zeros_like(begun.step["train"])})
        more = judge(ctx.extend(begun[number.repeat_interleave(self.size)], temperature=self.temperature))
        return concatenate([kept, more])

    def prefixes(self, ctx: Context, rows: Batch) -> tuple[Tensor, Tensor]:
        """The rows that prefixes are taken of, and their numbers of steps."""
        reward, rng = total_reward(rows), ctx.rng("prefixes")
        found, given = [], []
        for group in rows.row["group"].unique():
            mine = ((rows.row["group"] == group) & rows.row["scored"]).nonzero()[:, 0]
            best = mine[reward[mine].argmax()]
            length = int(rows.valid[best].sum())
            if float(reward[best]) < self.good or length < 2 or not self.share:
                continue
            lines = -(-length // self.steps)
            many = beginnings(lines, math.ceil(self.share * lines), self.decay, rng)
            given += [min(n * self.steps, length - 1) for n in many.tolist()]
            found += [int(best)] * len(many)
        return tuple(torch.tensor(one, dtype=torch.int64, device=rows.device) for one in (found, given))  # type: ignore[return-value]
