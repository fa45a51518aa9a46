"""Groups that take in rows of earlier rounds: beside the fresh ones, or in place of one where all failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_mean, group_std
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.sampling.store import fresh, replayed, store, stored, worth
from policyopt.types import Batch, Round, concatenate

Strategy = Literal["all", "random", "recent", "highest", "max_variance"]


def widest_choice(reward: Tensor, size: int) -> Tensor:
    """Numbers of `size` of rewards (n,) with the largest variance (equals: the larger sum): some of the largest and
    some of the smallest."""
    order = reward.argsort(descending=True, stable=True)
    best, found = (-1.0, -torch.inf), order[:size]
    for top in range(size, -1, -1):
        chosen = torch.cat([order[:top], order[len(order) - (size - top) :]])
        spread, total = float(reward[chosen].var(unbiased=False)), float(reward[chosen].sum())
        if spread > best[0] + 1e-12 or (abs(spread - best[0]) <= 1e-12 and total > best[1]):
            best, found = (spread, total), chosen
    return found


def retrieve(reward: Tensor, strategy: Strategy, size: int, rng: torch.Generator) -> Tensor:
    """Numbers of the stored rows (oldest first, rewards (n,)) that come back, ascending."""
    count = len(reward)
    if strategy == "all" or count <= size:
        return torch.arange(count, device=reward.device)
    if strategy == "random":
        chosen = torch.randperm(count, generator=rng)[:size].to(reward.device)
    elif strategy == "recent":
        chosen = torch.arange(count - size, count, device=reward.device)
    elif strategy == "highest":
        # Among equals the newest.
        newest = reward.flip(0).argsort(descending=True, stable=True)[:size]
        chosen = count - 1 - newest
    else:
        chosen = widest_choice(reward, size)
    return chosen.sort().values


@dataclass(frozen=True)
class ReplayedGroup(Part):
    """RePO (arXiv 2506.09340): `size` fresh attempts of every task, beside up to `replayed` of its rows of earlier
    rounds if at least `least` are stored, chosen by `strategy` (random, recent, highest reward, largest variance of
    rewards, or all). They keep their behaviour log-probabilities and rewards, and are marked Source.REPLAY.

    capacity: rows stored a task, the newest; the fresh rows enter after the round. replayed 0 is `Group`. The metric
    `reward` is of all rows, `reward_drawn` of the fresh ones.
    """

    size: int = 8
    replayed: int = 8
    capacity: int = 16
    least: int = 16
    strategy: Strategy = "highest"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.replayed < 0 or not 1 <= self.least <= self.capacity:
            raise CompositionError(
                f"need replayed >= 0 and 1 <= least <= capacity, got {self.replayed}, {self.least}, {self.capacity}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        rows = judge(attempt(ctx, draw(), self.size, self.temperature))
        ctx.meter.mean("reward_drawn", total_reward(rows), rows.row["scored"])
        rng, found = ctx.rng("replayed rows"), [rows]
        groups = rows.row["group"].unique()
        for group in groups if self.replayed else groups[:0]:
            task = int(rows.row["task"][rows.row["group"] == group][0])
            held = stored(ctx, task)
            if held is not None and len(held) >= self.least:
                chosen = retrieve(worth(held), self.strategy, self.replayed, rng)
                found.append(replayed(held[chosen], int(group), rows))
        ctx.meter.add("replayed_rows", sum(len(more) for more in found[1:]), 1)
        return concatenate(found)

    def after(self, ctx: Context, done: Round) -> None:
        rows = fresh(done.judged)
        store(ctx, rows[rows.row["scored"]], self.capacity)


@dataclass(frozen=True)
class RescuedGroup(Part):
    """ARPO (arXiv 2505.16282): `size` attempts of every task; where all fail alike (standard deviation of the scores
    below `spread`, dividing by n, and mean below `most`) a random stored success of the task takes the place of the
    first. After the round fresh rows with a score above `success` are stored, the newest `capacity` a task.

    score: the row column that says how well a task was done, apart from rewards for form; "" is the total reward. The
    metric `reward_drawn` is of the rows as sampled.
    """

    size: int = 8
    capacity: int = 8
    spread: float = 0.05
    most: float = 0.2
    success: float = 0.1
    score: str = ""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if self.capacity < 0 or self.spread < 0:
            raise CompositionError(f"need capacity and spread of 0 or more, got {self.capacity} and {self.spread}")

    def scores(self, rows: Batch) -> Tensor:
        return total_reward(rows) if not self.score else rows.row[self.score].to(rows.step["reward"].dtype)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        rows = judge(attempt(ctx, draw(), self.size, self.temperature))
        score, group, scored = self.scores(rows), rows.row["group"], rows.row["scored"]
        ctx.meter.mean("reward_drawn", total_reward(rows), scored)
        failed = (group_std(score, group, scored, 0) < self.spread) & (group_mean(score, group, scored) < self.most)
        rng, keep, found = ctx.rng("rescue"), torch.ones_like(scored), []
        for one in group[failed].unique():
            first = (group == one).nonzero()[0, 0]
            held = stored(ctx, int(rows.row["task"][first]))
            if held is None or not len(held):
                continue
            chosen = torch.randint(len(held), (1,), generator=rng).to(rows.device)
            found.append(replayed(held[chosen], int(one), rows))
            keep[first] = False
        ctx.meter.add("rescued_groups", len(found), len(group.unique()))
        return concatenate([rows[keep], *found]) if found else rows

    def after(self, ctx: Context, done: Round) -> None:
        rows = fresh(done.judged)
        good = rows.row["scored"] & (self.scores(rows) > self.success)
        if self.capacity:
            store(ctx, rows[good], self.capacity)
