"""Tasks of some kinds only, as stages of a program bring them in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.random import generator
from policyopt.seen import asked
from policyopt.types import Tasks


@dataclass(frozen=True)
class OfKinds(Part):
    """Tasks of the named kinds (the world's `kinds()`, a name per task) in epochs of random order; every kind makes the
    same part of a round, the first kinds the larger ones if that does not divide."""

    kinds: tuple[str, ...] = ("preference", "verifiable")

    def __post_init__(self) -> None:
        if not self.kinds:
            raise CompositionError("tasks need at least one kind")

    def __call__(self, ctx: Context, count: int) -> Tasks:
        names = asked(ctx.world, "kinds", "which kind each of its tasks is")()
        found: list[int] = []
        there = [kind for kind in self.kinds if kind in names]
        if not there:
            raise CompositionError(f"the world has tasks of the kinds {sorted(set(names))}, none of {self.kinds}")
        for place, kind in enumerate(there):
            mine = torch.tensor([task for task, name in enumerate(names) if name == kind])
            wanted = (count + len(there) - 1 - place) // len(there)
            position, drawn = ctx.drawn // len(there), 0
            while drawn < wanted:
                epoch, offset = divmod(position + drawn, len(mine))
                order = mine[torch.randperm(len(mine), generator=generator(ctx.seed, kind, epoch))]
                found.extend(order[offset : offset + wanted - drawn].tolist())
                drawn += len(order[offset : offset + wanted - drawn])
        return ctx.world.tasks(torch.tensor(found))
