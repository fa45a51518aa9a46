"""Advantages of a row relative to rewards that its task has had before, kept in a cell of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.credit.groups import bounded, check_bound
from policyopt.ops.sequences import spread, total_reward
from policyopt.types import Batch, Round

REWARDS = Cell("rewards by task", dict)
"""{task id as text: a list of rewards per round in which the task came up, the oldest first}, and "stage", the round
that their stage began with: another stage's tasks and rewards are others, whatever their ids."""


def history_of(ctx: Context) -> dict[str, Any]:
    """What this stage's tasks have had."""
    held, begun = ctx[REWARDS], ctx.step - ctx.stage_step
    return dict(held) if held.get("stage", begun) == begun else {}


def against(x: Tensor, pool: Tensor, epsilon: float, ddof: int) -> Tensor:
    """(x - mean) / (std + epsilon) of a pool of numbers; 0 if they are all alike or alone."""
    if len(pool) - ddof < 1 or not bool((pool != pool[0]).any()):
        return torch.zeros_like(x)
    return (x - pool.mean()) / (pool.std(correction=ddof) + epsilon)


@dataclass(frozen=True)
class TaskStandardised(Part):
    """A row's reward, standardised by the rewards of its task: those of the present round and of the last `past`
    rounds in which the task came up (DDPO, arXiv 2305.13301, section 4.3; B2-DiffuRL, arXiv 2503.11240).

    The group plays no role: a task that comes up once a round still has a spread. fewest: a task with fewer rewards is
    standardised by all rewards of the round. bound: advantages are clipped to -bound..bound.
    """

    past: int = 8
    fewest: int = 1
    ddof: int = 1
    epsilon: float = 1e-8
    bound: float | None = None

    formula = "A_b = (R_b - mean R) / (std R + epsilon), over this and the last `past` rounds of b's task"

    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.past < 0 or self.fewest < 1 or self.epsilon < 0 or self.ddof not in (0, 1):
            raise CompositionError(
                "need past >= 0, fewest >= 1, epsilon >= 0 and ddof 0 or 1, got "
                f"{self.past}, {self.fewest}, {self.epsilon} and {self.ddof}"
            )
        check_bound(self.bound)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, task, scored = total_reward(batch), batch.row["task"], batch.row["scored"]
        history = history_of(ctx)
        advantage = torch.zeros_like(reward)
        for one in task[scored].unique().tolist():
            rows = scored & (task == one)
            earlier = [x for past in _last(history.get(str(one), []), self.past) for x in past]
            pool = torch.cat([reward[rows], reward.new_tensor(earlier)])
            pool = pool if len(pool) >= self.fewest else reward[scored]
            advantage[rows] = against(reward[rows], pool, self.epsilon, self.ddof)
        return batch.with_steps({"advantage": spread(batch, bounded(advantage, self.bound))})

    def after(self, ctx: Context, done: Round) -> None:
        rows = done.judged
        reward, task, scored = total_reward(rows), rows.row["task"], rows.row["scored"]
        history = history_of(ctx)
        for one in task[scored].unique().tolist():
            held = [*history.get(str(one), []), reward[scored & (task == one)].tolist()]
            history[str(one)] = _last(held, self.past)
        ctx[REWARDS] = {**history, "stage": ctx.step - ctx.stage_step}


def _last(items: list[Any], count: int) -> list[Any]:
    return items[len(items) - count :] if count < len(items) else items


@dataclass(frozen=True)
class SignWeighted(Part):
    """Advantages above 0 times `positive`, the others times `negative` (B2-DiffuRL's w_pos and w_neg)."""

    positive: float = 1.0
    negative: float = 1.0

    formula = "A_bt *= positive if A_bt > 0 else negative"

    reads = ("advantage",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.positive < 0 or self.negative < 0:
            raise CompositionError(f"weights of signs must not be negative, got {self.positive} and {self.negative}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        advantage = batch.step["advantage"]
        weight = torch.where(advantage > 0, self.positive, self.negative)
        return batch.with_steps({"advantage": weight * advantage})
