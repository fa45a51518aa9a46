"""Recorded pairs from easy to hard, by what reward models say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.ops.pairs import pair_rows
from policyopt.ops.random import generator
from policyopt.seen import SeenBatch, asked
from policyopt.types import Tasks

SORTED = Cell("pairs by margin", dict)
"""{"epoch": its number, "ids": the pairs in order}, written before the first round of every epoch."""


def easiest_first(margin: Tensor, count: int, unit: Literal["batch", "pair"] = "batch") -> Tensor:
    """(n,) places: neighbouring batches of `count` by decreasing mean margin; or single pairs by decreasing margin."""
    if unit == "pair":
        return margin.argsort(descending=True, stable=True)
    batches = torch.arange(len(margin), device=margin.device).view(-1, count)
    return batches[margin.view(-1, count).mean(1).argsort(descending=True, stable=True)].flatten()


@dataclass(frozen=True)
class SortByMargin(Part):
    """Before hook: at the start of every epoch the pairs are shuffled and cut into batches, and the batches sorted by
    decreasing mean over pairs and models of r(y_w) - r(y_l) (CRM, arXiv 2505.10597). For `InOrder`.

    unit: "pair" sorts single pairs into batches, after which a batch holds equal margins only.
    """

    models: tuple[str, ...] = ("first", "second")
    unit: Literal["batch", "pair"] = "batch"

    needs = "rewards of whole rows"

    @property
    def critics(self) -> tuple[str, ...]:
        return self.models

    def __call__(self, ctx: Context) -> None:
        size, count = ctx.world.size, ctx.stage.selection.count
        if size % count:
            raise CompositionError(f"batches of an epoch are sorted whole: {count} must divide the {size} pairs")
        epoch = ctx.drawn // size
        if ctx[SORTED].get("epoch") == epoch:
            return
        order = torch.randperm(size, generator=generator(ctx.seed, "epoch", epoch))
        everything: Any = asked(ctx.world, "recorded_pairs", "for its pairs")
        tasks = ctx.world.tasks(order).with_rows({"group": torch.arange(size)})
        rows = everything(tasks.to(next(ctx.models[self.models[0]].parameters()).device))
        with torch.no_grad():
            seen = SeenBatch(ctx, rows)
            worth = torch.stack([seen.worth(model) for model in self.models]).mean(0)
        chosen, rejected = pair_rows(rows).T
        margin = (worth[chosen] - worth[rejected]).cpu()
        ctx[SORTED] = {"epoch": epoch, "ids": order[easiest_first(margin, count, self.unit)]}


@dataclass(frozen=True)
class InOrder(Part):
    """Tasks in the order that `SortByMargin` wrote, once per epoch."""

    def __call__(self, ctx: Context, count: int) -> Tasks:
        held = ctx[SORTED]
        if not held:
            raise CompositionError("no order is written; add SortByMargin() to Method.before")
        start = ctx.drawn % len(held["ids"])
        return ctx.world.tasks(held["ids"][start : start + count])
