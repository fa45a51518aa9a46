"""Groups that are made of several sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.types import Batch


@dataclass(frozen=True)
class SetsGroup(Part):
    """`sets` sets of `size` attempts of every task, all in the task's group: row column `set`, one id per set."""

    sets: int = 8
    size: int = 64
    temperature: float = 1.0

    writes = ("set",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.sets < 2 or self.size < 2:
            raise CompositionError(f"sets are compared: at least 2 of at least 2 rows, not {self.sets} of {self.size}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        def numbered(batch: Batch) -> Batch:
            return judge(batch.with_rows({"set": torch.arange(len(batch), device=batch.device) // self.size}))

        # Attempts of a task stand side by side when they come from the sampler.
        return Group(self.sets * self.size, self.temperature)(ctx, draw, numbered)
