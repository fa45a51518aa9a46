"""Branches: attempts that share the first steps, and attempts whose finished sample is what is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.sequences import last_own
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.types import Batch

Stem = int | Callable[[Context], int]


@dataclass(frozen=True)
class Branched(Part):
    """`size` continuations of a common stem per task: the first `stem` steps are taken once, copied and not trained.

    stem: a number, or a function of the context (a schedule). On a denoising chain, whose first step draws the initial
    noise, 1 means "one initial noise per group". 0 is `Group`. Row column `stem`: steps shared with the group.
    """

    stem: Stem = 1
    size: int = 12
    temperature: float = 1.0

    writes = ("stem",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if not callable(self.stem) and self.stem < 0:
            raise CompositionError(f"sampling.stem must be at least 0, not {self.stem}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        shared = self.stem(ctx) if callable(self.stem) else self.stem
        stem = ctx.world.start(draw())
        if shared:
            stem = ctx.extend(stem, temperature=self.temperature, steps=shared)
            stem = stem.with_steps({"train": torch.zeros_like(stem.step["train"])})
        index = torch.arange(len(stem), device=stem.device).repeat_interleave(self.size)
        rows = stem[index].with_rows({"stem": stem.lengths[index]})
        return judge(ctx.extend(rows, temperature=self.temperature))


@dataclass(frozen=True)
class Samples(Part):
    """`size` finished samples of every task by a named model, whose last step counts as trained and no other.

    For losses on the finished sample (forward-process regression): they need no densities, so any model and any
    deterministic solver may generate.
    """

    size: int = 12
    model: str = "policy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)

    def __call__(self, ctx: Any, draw: Draw, judge: Judge) -> Batch:
        rows = attempt(ctx, draw(), self.size, self.temperature, self.model)
        return judge(rows.with_steps({"train": last_own(rows)}))
