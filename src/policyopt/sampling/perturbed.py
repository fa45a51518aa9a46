"""Rows of perturbed copies of the policy, for updates without gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.perturbations import held, moved, perturbations
from policyopt.sampling.samplers import Draw, Judge, attempt
from policyopt.types import Batch, concatenate


@dataclass(frozen=True)
class Perturbed(Part):
    """`candidates` copies of the policy, each moved by `scale` times a normal direction, attempt the same tasks `size`
    times. Row column `candidate`: which of them wrote the row."""

    candidates: int = 8
    scale: float = 0.1
    size: int = 1
    temperature: float = 1.0

    writes = ("candidate",)

    def __post_init__(self) -> None:
        if self.candidates < 2 or self.scale <= 0 or self.size < 1 or self.temperature < 0:
            raise CompositionError(
                f"need candidates >= 2, scale > 0, size >= 1 and temperature >= 0, got {self.candidates}, "
                f"{self.scale}, {self.size} and {self.temperature}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks, model, found = draw(), ctx.models["policy"], []
        for number, direction in enumerate(perturbations(model, self.candidates, ctx.seed, ctx.step)):
            with held(model):
                moved(model, self.scale * direction)
                rows = attempt(ctx, tasks, self.size, self.temperature)
            found.append(rows.with_rows({"candidate": torch.full_like(rows.row["task"], number)}))
        return judge(concatenate(found))
