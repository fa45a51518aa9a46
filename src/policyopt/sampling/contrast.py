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
    """`size` attempts of every task in one group: a share `told` of them (at least one) are told to do something (1),
    as many not to (0), the others nothing (GeometryZero's contrast sets, arXiv 2506.07160).

    instruction: the name under which the world understands it. Row column `told`: 1, 0, or -1 for nothing.
    """

    size: int = 12
    told: float = 1 / 3
    instruction: str = "construction"
    temperature: float = 1.0

    writes = ("told",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.size < 2 or not 0 < self.told <= 0.5:
            raise CompositionError(
                "a contrast needs two attempts or more and a share above 0 and at most 1/2, got "
                f"{self.size} and {self.told}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        asked = draw()
        place = torch.arange(self.size, device=asked.id.device).repeat(len(asked))
        each = max(1, int(self.told * self.size + 1e-9))
        told = torch.where(place < each, 1, torch.where(place < 2 * each, 0, -1))
        value = torch.where(told >= 0, told.float(), float("nan"))
        tasks = instructed(ctx.world, asked.repeat(self.size), self.instruction, value)
        return judge(ctx.extend(ctx.world.start(tasks.with_rows({"told": told})), temperature=self.temperature))
