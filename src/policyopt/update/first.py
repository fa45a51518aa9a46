"""Training that comes before a round's rows are judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from policyopt.compose import Part, Term
from policyopt.types import Batch, concatenate
from policyopt.update.apart import apart
from policyopt.update.gradient import Gradients, GradientSteps

RECORDED = "recorded"
"""An author: the rows of the data."""


@dataclass(frozen=True)
class TrainedFirst(Part):
    """A `before` hook: `count` fresh rows of each of several models, and on them an update by terms of its own. The
    parts of the round then read models that know the present policy (a discriminator whose log-odds are charged).

    Rows carry the column `author`, the place of their model in `authors`. They are drawn for the tasks that the round
    draws next, in groups of their own. An author can be the world's recordings (`RECORDED`).
    """

    terms: tuple[Term, ...] = ()
    update: Gradients = field(default_factory=GradientSteps)
    authors: tuple[str, ...] = ("policy", "reference")
    count: int = 32

    writes = ("author",)

    def __call__(self, ctx: Any) -> None:
        rows = concatenate([self.rows(ctx, place) for place in range(len(self.authors))])
        self.update(apart(ctx, self.terms, self.update), rows)

    def rows(self, ctx: Any, place: int) -> Batch:
        """Finished rows of the model at a place of `authors`."""
        device = next(ctx.models["policy"].parameters()).device
        tasks = ctx.stage.selection.draw(ctx, self.count).to(device)
        # The upper half of the round's group ids: the round itself counts from the lower end.
        group = (ctx.step << 20) + (1 << 19) + place * self.count + torch.arange(self.count)
        tasks, author = tasks.with_rows({"group": group.to(device)}), self.authors[place]
        rows = ctx.world.recorded(tasks) if author == RECORDED else ctx.extend(ctx.world.start(tasks), author)
        return rows.with_rows({"author": torch.full_like(rows.row["task"], place)})
