"""Attempts of one task under opposite instructions, so that a group holds an experiment."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.sampling.instructions import instructed
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.types import Batch


@dataclass(frozen=True)
class Contrasted(Part):
    """`size` attempts of every task in one group: `each` of them are told to do something (1), as many not to (0), the
    others nothing (GeometryZero's contrast sets, arXiv 2506.07160).

    instruction: the name under which the world understands it. Row column `told`: 1, 0, or -1 for nothing.
    """

    size: int = 12
    each: int = 4
    instruction: str = "construction"
    temperature: float = 1.0

    writes = ("told",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if not 1 <= self.each <= self.size // 2:
            raise CompositionError(f"sampling.each must be in 1..size / 2 = {self.size // 2}, not {self.each}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        asked = draw()
        place = torch.arange(self.size, device=asked.id.device).repeat(len(asked))
        told = torch.where(place < self.each, 1, torch.where(place < 2 * self.each, 0, -1))
        value = torch.where(told >= 0, told.float(), float("nan"))
        tasks = instructed(ctx.world, asked.repeat(self.size), self.instruction, value)
        return judge(ctx.extend(ctx.world.start(tasks.with_rows({"told": told})), temperature=self.temperature))
