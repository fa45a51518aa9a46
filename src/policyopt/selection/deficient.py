"""Tasks whose recorded answers the policy finds unlikely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.masked import masked_mean
from policyopt.remembered import note, noted
from policyopt.seen import asked
from policyopt.selection.tasks import in_epochs
from policyopt.types import Tasks

PERPLEXITY = "perplexity of the recorded answer"


@dataclass(frozen=True)
class Perplexities(Part):
    """Before every `every`-th round of a stage: notes of all tasks d = exp(-mean_t log pi(y*_t)), y* the task's
    recorded answer; `rows` at a time."""

    every: int = 1
    rows: int = 256

    def __post_init__(self) -> None:
        if self.every < 1 or self.rows < 1:
            raise CompositionError(f"need every and rows of at least 1, got {self.every} and {self.rows}")

    def __call__(self, ctx: Context) -> None:
        if ctx.stage_step % self.every:
            return
        policy: Any = ctx.models["policy"]
        recorded = asked(ctx.world, "recorded", "for the recorded answers of its tasks")
        device = next(policy.parameters()).device
        for ids in torch.arange(ctx.world.size).split(self.rows):
            tasks = ctx.world.tasks(ids).to(device)
            shown = recorded(tasks.with_rows({"group": tasks.id}))
            with torch.no_grad():
                logp = policy.score(shown, None, full=False).logp
            note(ctx, PERPLEXITY, ids, (-masked_mean(logp.double(), shown.own)).exp())


@dataclass(frozen=True)
class DeficientTasks(Part):
    """The ceil(share N) tasks of largest perplexity (`Perplexities`), the first among equals, in epochs of random
    order (iTool, arXiv 2501.09766)."""

    share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise CompositionError(f"share must be above 0 and at most 1, not {self.share}")

    def __call__(self, ctx: Context, count: int) -> Tasks:
        worst = noted(ctx, PERPLEXITY, ctx.world.size).argsort(descending=True, stable=True)
        kept = worst[: math.ceil(self.share * len(worst) - 1e-9)]
        return in_epochs(ctx, kept.sort().values, count, "deficient")
