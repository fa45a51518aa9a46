"""A reference that is an earlier self."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch

from policyopt.compose import Cell, CompositionError, Part

EARLIER = Cell("earlier selves", list)
"""Weights of the policy as it was, the oldest first."""


@dataclass(frozen=True)
class EarlierSelf(Part):
    """A `before` hook: every `every` rounds (from the first on) the policy's weights are kept, and before every round a
    model becomes one of those that were: drawn uniformly, the latest or the first."""

    model: str = "reference"
    of: str = "policy"
    every: int = 30
    choice: Literal["uniform", "latest", "first"] = "uniform"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise CompositionError(f"every is a number of rounds, at least 1, not {self.every}")

    def __call__(self, ctx: Any) -> None:
        if ctx.stage_step % self.every == 0:
            ctx[EARLIER] = [*ctx[EARLIER], copy.deepcopy(ctx.models[self.of].state_dict())]
        kept = ctx[EARLIER]
        drawn = int(torch.randint(len(kept), (), generator=ctx.rng("earlier self")))
        place = {"uniform": drawn, "latest": len(kept) - 1, "first": 0}[self.choice]
        ctx.models[self.model].load_state_dict(kept[place])
