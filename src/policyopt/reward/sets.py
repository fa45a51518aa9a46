"""Worth of whole sets of rows, shared among their members by what the set is worth without each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.comparisons import group_share
from policyopt.ops.groups import group_count, group_mean, group_std
from policyopt.ops.sequences import on_last, spread, total_reward
from policyopt.seen import asked
from policyopt.types import Batch


def without_each(ids: Int[Tensor, " B"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows of every set without each of its members: (row, the member that is left out)."""
    same = ids[:, None] == ids[None]
    left_out, row = (same & ~torch.eye(len(ids), dtype=torch.bool, device=ids.device)).nonzero(as_tuple=True)
    return row, left_out


def shares(
    credit: Float[Tensor, " B"], ids: Int[Tensor, " B"], counted: Bool[Tensor, " B"], heat: float
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """K softmax(z / heat) and K softmax(-z / heat) over every set of K, z the standardised credit: each has mean 1."""
    size = group_count(ids, counted)
    z = (credit - group_mean(credit, ids, counted)) / (group_std(credit, ids, counted) + 1e-4) / heat
    more, less = (size * group_share(sign * z, ids, counted) for sign in (1.0, -1.0))
    return more, less


@dataclass(frozen=True)
class SetWorth(Part):
    """The diversity D of a row's set beside its own utility u (SGRPO, supergroups of sets). The sets of a group are
    compared, A_g = D_g - mean of the other sets' D; what a set is better or worse goes to its members by their
    leave-one-out contributions, D(S) - D(S without b).

    into "reward": R = (1 - weight) u + weight (D + [A]+ (w+ - 1) - [-A]+ (w- - 1)), whose mean over a set is that of
    u and D. into "advantage": u stays, and [A]+ w+ - [-A]+ w- is the column `advantage:set`. Column `utility`: u.
    The world's `diversity(batch, ids) -> (B,)` says it of the sets that share an id. least: a set whose mean utility is
    below it has diversity 0.
    """

    weight: float = 0.9
    heat: float = 1.0
    least: float | None = None
    into: Literal["reward", "advantage"] = "reward"

    needs = "a world that knows the diversity of sets"
    formula = "R_b = (1 - w) u_b + w (D_g + [A_g]+ (w+_b - 1) - [-A_g]+ (w-_b - 1)), A_g = D_g - mean of other sets' D"
    reads = ("set",)

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.heat <= 0:
            raise CompositionError(f"need weight in 0..1 and heat above 0, got {self.weight} and {self.heat}")

    @property
    def writes(self) -> tuple[str, ...]:
        return ("utility", *(("advantage:set",) if self.into == "advantage" else ()))

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        diversity: Callable[..., Tensor] = asked(ctx.world, "diversity", "how diverse sets of rows are")
        utility, scored = total_reward(batch), batch.row["scored"]
        ids = batch.row["set"].unique(return_inverse=True)[1]
        worth, credit = torch.zeros_like(utility), torch.zeros_like(utility)
        known = scored.nonzero()[:, 0]
        worth[known] = diversity(batch[known], ids[known]).to(utility)
        row, left_out = without_each(ids[known])
        others = torch.zeros(len(known), dtype=utility.dtype, device=utility.device)
        if len(row):
            others[left_out] = diversity(batch[known][row], left_out).to(utility)
        if self.least is not None:
            worth = torch.where(group_mean(utility, ids, scored) < self.least, 0.0, worth)
        credit[known] = worth[known] - others
        better = self.better(batch.row["group"], ids, worth, scored)
        more, less = shares(credit, ids, scored, self.heat)
        gain, loss = better.clamp(min=0), (-better).clamp(min=0)
        ctx.meter.mean("diversity", worth, scored)
        ctx.meter.mean("utility", utility, scored)
        kept = batch.with_rows({"utility": utility})
        if self.into == "advantage":
            by_set = torch.where(scored, gain * more - loss * less, 0.0)
            return kept.with_steps({"advantage:set": spread(batch, by_set)})
        shared = worth + gain * (more - 1) - loss * (less - 1)
        reward = torch.where(scored, (1 - self.weight) * utility + self.weight * shared, 0.0)
        return kept.with_steps({"reward": on_last(batch, reward)})

    @staticmethod
    def better(group: Tensor, ids: Tensor, worth: Tensor, scored: Tensor) -> Tensor:
        """(B,) D_g less the mean over the other sets of the group; 0 where there is none."""
        first = torch.full((int(ids.max()) + 1 if len(ids) else 0,), len(ids), device=ids.device)
        index = torch.where(scored, torch.arange(len(ids), device=ids.device), len(ids))
        first = first.scatter_reduce(0, ids, index, "amin")
        there = first < len(ids)
        place = first.clamp(max=max(len(ids) - 1, 0))
        one, of = worth[place], group[place]
        count = group_count(of, there).to(worth.dtype)
        total = group_mean(one, of, there) * count
        away = torch.where(there & (count > 1), one - (total - one) / (count - 1).clamp(min=1), 0.0)
        return away[ids]
