"""Rows that several policies share: own attempts beside those of others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import informative
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.seen import asked
from policyopt.types import Batch, concatenate


@dataclass(frozen=True)
class Exchanged(Part):
    """A node of a swarm (SAPO, arXiv 2509.08721): `size` own attempts of every drawn task, published for the others
    (`world.publish(rows)`), and `external` groups of what others published (`world.offered()`, rows or None), drawn
    uniformly from those whose rewards, as judged here, differ. Where too few are offered, own groups take their place,
    so that a round always has as many rows.

    Rows of others come without behaviour: a surrogate whose `old` is collected treats them as the policy's own. What is
    offered is outside the run's state.
    """

    size: int = 8
    external: int = 4
    temperature: float = 1.0

    needs = "a world in which rows are exchanged"

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.external < 0:
            raise CompositionError(f"sampling.external is a number of groups of 0 or more, not {self.external}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        own = judge(attempt(ctx, draw(), self.size, self.temperature))
        if not self.external:
            return own
        asked(ctx.world, "publish", "to publish rows")(own)
        found = self._external(ctx, judge)
        groups = len(found.row["group"].unique()) if found is not None else 0
        ctx.meter.add("external_groups", groups, 1)
        rows = [own] if found is None else [own, found]
        if groups < self.external:
            rows.append(judge(attempt(ctx, draw(self.external - groups), self.size, self.temperature)))
        return concatenate(rows)

    def _external(self, ctx: Context, judge: Judge) -> Batch | None:
        """Groups of others, under ids of this run."""
        offered: Batch | None = asked(ctx.world, "offered", "what others published")()
        if offered is None or not len(offered):
            return None
        judged = judge(offered)
        useful = informative(total_reward(judged), judged.row["group"], judged.row["scored"])
        groups = judged.row["group"][useful].unique()
        order = torch.randperm(len(groups), generator=ctx.rng("exchange")).to(groups.device)
        chosen = groups[order[: self.external]]
        rows = judged[(judged.row["group"][:, None] == chosen).any(1)]
        if not len(rows):
            return None
        # The upper half of the round's group ids: the round itself counts from the lower end.
        group = (ctx.step << 20) + (1 << 19) + (rows.row["group"][:, None] == chosen).long().argmax(1)
        return rows.with_rows({"group": group})
