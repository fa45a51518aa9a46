"""Rewards of single searches of an agent, at the step that ends each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.masked import select
from policyopt.ops.searches import Searches, asked_share, information_gain, repeated
from policyopt.ops.sequences import on_last
from policyopt.seen import asked
from policyopt.types import Batch


@dataclass(frozen=True)
class SearchReward(Part):
    """Pays every search, at its own last step, for the information that it adds about the gold documents, less the
    share of documents that had been returned before; and the row, at its end, for how well its queries match the
    keywords of the sub-questions (StepSearch, arXiv 2505.15107).

    step, keywords: the two weights. within: a document twice in one search counts as returned before (as released).
    """

    step: float = 0.6
    keywords: float = 0.618
    within: bool = False

    needs = "a world with searches"
    formula = (
        "r_bt += step (gain_t - repeated_t) at searches; R_b += keywords mean over groups of the best query's match"
    )

    def __post_init__(self) -> None:
        if self.step < 0 or self.keywords < 0:
            raise CompositionError(f"weights of searches must not be negative, got {self.step} and {self.keywords}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        found: Searches = asked(ctx.world, "searches", "what its searches returned")(batch).among(batch.own)
        reward = batch.step["reward"]
        gain, twice = information_gain(found.similar), repeated(found.documents, within=self.within)
        made = found.made & batch.own
        ctx.meter.mean("search_gain", gain, made)
        ctx.meter.mean("search_repeated", twice, made)
        paid = select(made, self.step * (gain - twice).to(reward.dtype))
        final = on_last(batch, self.keywords * asked_share(found.keywords).to(reward.dtype))
        scored = batch.row["scored"][:, None].expand_as(batch.own)
        return batch.with_steps({"reward": reward + select(scored, torch.add(paid, final))})
