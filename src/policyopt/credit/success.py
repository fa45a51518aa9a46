"""How likely a row is to end right, before and after each of its turns."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.masked import select
from policyopt.ops.pieces import pieces
from policyopt.ops.sequences import total_reward
from policyopt.seen import SeenBatch, graded, rewinding
from policyopt.types import Batch


@dataclass(frozen=True)
class PrefixSuccess(Part):
    """Step column `label` on the first step of every turn: the share of `count` completions by `model` from the state
    before it whose grade is at least `right`, of those that have a grade; `labelled` says where there is one."""

    count: int = 8
    right: float = 1.0
    temperature: float = 1.0
    model: str = "policy"

    needs = "a world that can go back to a prefix"
    formula = "y_k = share of right completions of the first k turns"
    version = 2
    writes = ("label", "labelled")

    def __post_init__(self) -> None:
        if self.count < 1 or self.temperature <= 0:
            raise CompositionError(f"need count >= 1 and temperature > 0, got {self.count} and {self.temperature}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        turns, bare = pieces(batch, "turn"), Batch(batch.row, batch.step)
        rows, steps = (x.repeat_interleave(self.count) for x in (turns.row, turns.first))
        rewind = rewinding(ctx.world)
        done = ctx.extend(rewind(bare[rows], steps), self.model, self.temperature)
        grade = graded(ctx, done).view(-1, self.count)
        known = grade.isfinite().sum(1)
        share = (grade >= self.right).sum(1).to(batch.step["reward"].dtype) / known.clamp(min=1)
        places = (turns.row, turns.first)
        label = torch.zeros_like(batch.step["reward"]).index_put(places, share)
        labelled = torch.zeros_like(batch.own).index_put(places, known > 0)
        return batch.with_steps({"label": label, "labelled": labelled})


@dataclass(frozen=True)
class SuccessGain(Part):
    """A turn's advantage is the change of the chance of success, V = sigma of a frozen value model: V after it less V
    before it; the last turn's is the reward less V (arXiv 2412.18279). On every step of the turn."""

    critic: str = "critic"

    needs = "the turns of rows"
    formula = "A_k = V(s_k+1) - V(s_k), at the end R - V(s_k)"
    writes = ("advantage",)
    critics = named_by("critic")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            chance = torch.sigmoid(SeenBatch(ctx, batch).value(self.critic))
        turns = pieces(batch, "turn")
        before = chance[turns.row, turns.first]
        final = torch.ones(len(turns), dtype=torch.bool, device=batch.device)
        final[:-1] = turns.row[1:] != turns.row[:-1]
        after = torch.where(final, total_reward(batch)[turns.row].to(before.dtype), before.roll(-1))
        advantage = turns.spread(after - before).to(batch.step["reward"].dtype)
        return batch.with_steps({"advantage": select(batch.row["scored"][:, None] & batch.own, advantage)})
