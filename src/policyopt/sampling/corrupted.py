"""Right rows beside copies of them that were made wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import Context, Part, Seen
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.seen import asked, graded
from policyopt.types import Batch, Source, concatenate


@dataclass(frozen=True)
class GroupAndCorrupted(Part):
    """`size` attempts of every task and, where the world's rule accepts one of them, a pair for a reward model (Cooper,
    arXiv 2508.05613): a copy of such a row (rank 0, drawn uniformly) and a rewriting of it whose answer is wrong (rank
    1). Pairs are injected rows in groups of their own, -1 - group; attempts have rank -1.

    The world rewrites, `corrupted(rows, rng) -> rows`, and a rewriting that the rule accepts all the same makes no
    pair. right: rows with a grade above it are right.
    """

    size: int = 8
    temperature: float = 1.0
    right: float = 0.5

    writes = ("pair", "rank")

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        own = attempt(ctx, draw(), self.size, self.temperature)
        # A pair of its own for every attempt, or coupling by pairs would hold them together.
        number = -1 - torch.arange(len(own), device=own.device)
        rows = [own.with_rows({"pair": number, "rank": torch.full_like(number, -1)})]
        picked = self.right_rows(ctx, own)
        if len(picked):
            made: Batch = asked(ctx.world, "corrupted", "to rewrite right rows as wrong ones")(
                own[picked], ctx.rng("corrupted")
            )
            wrong = graded(ctx, made) <= self.right
            for rank, side in enumerate((own[picked], made)):
                kept = side[wrong]
                same = kept.row["group"]
                columns = {"pair": same, "rank": torch.full_like(same, rank), "group": -1 - same}
                rows.append(kept.with_rows({**columns, "source": torch.full_like(same, int(Source.INJECTED))}))
        ctx.meter.add("corrupted_pairs", len(rows[-1]) if len(rows) > 1 else 0, 1)
        return judge(concatenate(rows))

    def right_rows(self, ctx: Context, own: Batch) -> torch.Tensor:
        """(n,) a right row of every group that has one, drawn uniformly."""
        right = graded(ctx, own) > self.right
        luck = torch.rand(len(own), generator=ctx.rng("right rows"), dtype=torch.float64).to(own.device)
        order = torch.where(right, luck, 2.0).argsort()
        found = [order[own.row["group"][order] == group][0] for group in own.row["group"][right].unique()]
        return torch.stack(found) if found else torch.zeros(0, dtype=torch.int64, device=own.device)


def attempted_steps(seen: Seen, batch: Batch) -> torch.Tensor:
    """A mask: trained steps of rows that are no side of a pair."""
    return batch.trained & (batch.row["rank"] < 0)[:, None]
