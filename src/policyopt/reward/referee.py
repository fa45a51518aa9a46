"""Rewards that a model of the run gives to rows of others: one policy in two roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import on_last
from policyopt.seen import asked
from policyopt.types import Batch, concatenate


def rank_agreement(scores: Float[Tensor, "B N"], true: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Kendall's tau: 2 / (N (N - 1)) sum_{a<b} sign(s_a - s_b) sign(t_a - t_b); a tie counts 0. A row with a score that
    could not be read (nan) has -1 (URPO, arXiv 2507.15507)."""
    count = scores.shape[1]
    first, second = torch.triu_indices(count, count, 1).unbind(0)
    signs = (scores[:, first] - scores[:, second]).sign() * (true[:, first] - true[:, second]).sign()
    found = signs.nan_to_num(0.0).sum(1) / max(len(first), 1)
    return torch.where(scores.isnan().any(1), -1.0, found.to(scores.dtype))


@dataclass(frozen=True)
class Refereed(Part):
    """Rows of open-ended tasks get the scores that a model gives them as a referee, without gradient: it reads all rows
    of a group in a random order, `calls` times, and a row's reward is the mean of its scores (URPO, arXiv 2507.15507).

    model: "policy", the one that is trained (it then judges as it plays), or a copy of it. The world says which rows
    are open-ended, `open_ended(batch) -> (B,)`, makes the referee's row of a group, `referee(rows) -> Batch` of one row
    without steps, and reads the scores of finished ones, `scores(batch) -> (R, N)`, nan where there is none.
    """

    calls: int = 2
    model: str = "policy"
    temperature: float = 1.0

    needs = "a world with tasks for referees"
    formula = "R_b = mean of the scores that `calls` referee rows give b, for open-ended tasks"

    def __post_init__(self) -> None:
        if self.calls < 1 or self.temperature < 0:
            raise CompositionError(
                f"need at least one call and a temperature of 0 or more, got {self.calls} and {self.temperature}"
            )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        world: Any = ctx.world
        what = "to ask a referee"
        is_open, referee, scores = (asked(world, name, what) for name in ("open_ended", "referee", "scores"))
        chosen = is_open(batch) & batch.row["scored"]
        if not bool(chosen.any()):
            return batch
        rng = ctx.rng("referee")
        orders, begun = [], []
        for group in batch.row["group"][chosen].unique():
            members = (chosen & (batch.row["group"] == group)).nonzero()[:, 0]
            for _ in range(self.calls):
                orders.append(members[torch.randperm(len(members), generator=rng).to(members.device)])
                begun.append(referee(batch[orders[-1]]))
        found = scores(ctx.extend(concatenate(begun), self.model, self.temperature)).to(batch.step["reward"])
        total, count = (batch.step["reward"].new_zeros(len(batch)) for _ in range(2))
        for row, order in enumerate(orders):
            said = found[row, : len(order)]
            total = total.index_add(0, order, said.nan_to_num(0.0))
            count = count.index_add(0, order, (~said.isnan()).to(total.dtype))
        told = chosen & (count > 0)
        ctx.meter.mean("referee_score", total / count.clamp(min=1), told)
        given = on_last(batch, total / count.clamp(min=1))
        reward = torch.where(chosen[:, None], given, batch.step["reward"])
        return batch.with_steps({"reward": reward}).with_rows({"scored": batch.row["scored"] & (told | ~chosen)})
