"""Updates from rankings of perturbed policies, without gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Part
from policyopt.ops.groups import group_mean
from policyopt.ops.perturbations import held, moved, perturbations
from policyopt.ops.rankings import best_first, rank_weights
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch

DIRECTIONS = Cell("ranked directions", dict)
"""{"mean": (d,) mean of the directions since the policy last moved, "count": of how many}."""


@dataclass(frozen=True)
class RankedStep(Part):
    """ZO-RankSGD (arXiv 2303.03751, algorithms 1 and 2): the policy moves along the mean vote of all pairs that a
    ranking of its perturbed copies orders. Rows come from `Perturbed`; a candidate's worth is its mean reward.

    best: how many candidates are ranked; the others are below them. points: of the line search, steps rate, rate
    factor, rate factor^2 ... beside the present policy and the best candidate, ranked by fresh attempts at the same
    tasks; if the present policy wins it stays, and the next direction is averaged with this one. 0: a step of `rate`,
    without a search. by: "values" weighs directions by standardised rewards instead (an evolution strategy),
    for comparison.
    """

    rate: float = 1.0
    best: int = 3
    points: int = 0
    factor: float = 0.5
    by: Literal["ranks", "values"] = "ranks"
    optimizers: Mapping[str, Any] = field(default_factory=lambda: {"policy": None})

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.best < 1 or self.points < 0 or not 0 < self.factor < 1:
            raise CompositionError(
                f"need rate > 0, best >= 1, points >= 0 and factor in 0..1, got {self.rate}, {self.best}, "
                f"{self.points} and {self.factor}"
            )

    def __call__(self, ctx: Any, batch: Batch) -> None:
        model, sampling = ctx.models["policy"], ctx.stage.sampling
        noise = perturbations(model, sampling.candidates, ctx.seed, ctx.step)
        worth = self.worths(batch, len(noise))
        direction = self.weights(worth) @ noise
        ctx.meter.add("worth_best", float(worth.max()), 1)
        ctx.count_update()
        if not self.points:
            moved(model, self.rate * direction)
            return
        before = ctx[DIRECTIONS]
        count = before.get("count", 0) + 1
        mean = direction if count == 1 else before["mean"] + (direction - before["mean"]) / count
        steps = [self.rate * self.factor**number * mean for number in range(self.points)]
        moves = [torch.zeros_like(mean), *steps, sampling.scale * noise[int(best_first(worth, 1))]]
        found = torch.stack([self.tried(ctx, batch, move) for move in moves])
        winner = int(best_first(found, 1))
        moved(model, moves[winner])
        ctx[DIRECTIONS] = {"mean": mean, "count": count} if winner == 0 else {}

    def weights(self, worth: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        if self.by == "ranks":
            return rank_weights(best_first(worth, min(self.best, len(worth))), len(worth))
        spread = worth.std(correction=0)
        return (worth - worth.mean()) / (spread if float(spread) > 0 else 1.0) / len(worth)

    def worths(self, batch: Batch, count: int) -> Float[Tensor, " m"]:
        """Mean reward of every candidate's scored rows; the lowest there is for one without any."""
        reward, scored = total_reward(batch).double(), batch.row["scored"]
        mean = group_mean(reward, batch.row["candidate"], scored)
        found = torch.full((count,), -torch.inf, dtype=torch.float64)
        found[batch.row["candidate"][scored].cpu()] = mean[scored].cpu()
        return torch.where(
            found.isfinite(), found, found[found.isfinite()].min() if bool(found.isfinite().any()) else 0
        )

    def tried(self, ctx: Any, batch: Batch, move: Tensor) -> Tensor:
        """() mean reward of the policy moved, on the tasks of one candidate."""
        rows = batch[batch.row["candidate"] == batch.row["candidate"][0]]
        tasks = ctx.world.tasks(rows.row["task"]).with_rows({"group": rows.row["group"]})
        model, heat = ctx.models["policy"], float(rows.row["temperature"][0])
        with held(model):
            moved(model, move)
            judged = ctx.stage.reward(ctx, ctx.extend(ctx.world.start(tasks), temperature=heat))
        return total_reward(judged)[judged.row["scored"]].double().mean().nan_to_num(-torch.inf)
