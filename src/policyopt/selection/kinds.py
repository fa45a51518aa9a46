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
    """Tasks of the named kinds (the world's `kinds()`, a name per task), each in epochs of random order; kinds take
    turns, so that every one makes the same part of a round, but for one task where that does not divide."""

    version = 2

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
        turns = range(ctx.drawn, ctx.drawn + count)  # the n-th task of the stage is of kind n modulo their number
        for place, kind in enumerate(there):
            mine = torch.tensor([task for task, name in enumerate(names) if name == kind])
            positions = [turn // len(there) for turn in turns if turn % len(there) == place]
            epochs = {at // len(mine) for at in positions}
            rngs = {epoch: generator(ctx.seed, kind, epoch) for epoch in epochs}
            order = {epoch: mine[torch.randperm(len(mine), generator=rng)].tolist() for epoch, rng in rngs.items()}
            found += [order[at // len(mine)][at % len(mine)] for at in positions]
        return ctx.world.tasks(torch.tensor(found))
