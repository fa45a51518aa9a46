"""A second sampling pass at a temperature that steers the policy's entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.ops.groups import group_mean, group_std
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.types import Batch, Round, Source, concatenate

SMALL = 1e-6
ENTROPY = Cell("entropy of the last round", lambda: None)
"""Mean entropy of a step under the policy that began the last round's update, nats."""


@dataclass(frozen=True)
class EntropyControlled(Part):
    """AEPO (arXiv 2510.08141): `size` attempts of every task at temperature 1 and `extra` at another one, `hot` if the
    last round's entropy was not above `target`, else `cold`. Of the second pass the rows whose group-standardised
    reward is above `better` are kept, at most `most` of them (above the target half as many), and take the place of as
    many of the first, which stay in the statistics of their group but are not trained on. Kept rows are injected ones
    (`Source.INJECTED`) and count as rows of temperature 1. The first round counts as above it.
    """

    version = 2

    size: int = 8
    extra: int = 8
    most: int = 60
    target: float = 0.5
    hot: float = 1.5
    cold: float = 0.6
    better: float = 0.05

    def __post_init__(self) -> None:
        Group(self.size)
        if self.extra < 1 or self.most < 0 or self.cold <= 0 or self.hot < self.cold:
            raise CompositionError(
                "need extra >= 1, most >= 0 and 0 < cold <= hot, got "
                f"{self.extra}, {self.most}, {self.cold} and {self.hot}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks, entropy = draw(), ctx[ENTROPY]
        own = judge(attempt(ctx, tasks, self.size, 1.0))
        if self.most == 0:
            return own
        low = entropy is not None and entropy <= self.target
        second = judge(attempt(ctx, tasks, self.extra, self.hot if low else self.cold))
        kept = self.ahead(second).nonzero()[:, 0]
        found = min(self.most, len(kept))
        count = min(found if low else found // 2, len(own))
        ctx.meter.add("second_pass", count, 1)
        if not count:
            return own
        taken = second[kept[:count]]
        source, heat = (
            torch.full_like(taken.row["source"], int(Source.INJECTED)),
            torch.ones_like(taken.row["temperature"]),
        )
        # The last rows of the first pass make room.
        stays = torch.arange(len(own), device=own.device) < len(own) - count
        own = own.with_steps({"train": own.step["train"] & stays[:, None]})
        return concatenate([own, taken.with_rows({"source": source, "temperature": heat})])

    def ahead(self, batch: Batch) -> Tensor:
        """(B,) rows whose standardised reward is above `better`; in a group without spread none is."""
        reward, ids, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        gain = reward - group_mean(reward, ids, scored)
        return scored & (gain > self.better * (group_std(reward, ids, scored) + SMALL)) & (gain > SMALL)

    def after(self, ctx: Context, done: Round) -> None:
        if "entropy" in done.metrics:
            ctx[ENTROPY] = done.metrics["entropy"]
