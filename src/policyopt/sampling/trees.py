"""Rows that grow as trees: they share their first segments, and segments are sampled again from stored prefixes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_count
from policyopt.ops.pieces import Pieces, pieces
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.seen import rewinding
from policyopt.types import Batch, concatenate


def rooted(batch: Batch) -> Batch:
    """Rows without steps, with the step column `node`: which segment a step belongs to, 0 where there is none."""
    return batch.with_steps({"node": torch.zeros_like(batch.step["turn"])})


def grown(ctx: Context, batch: Batch, steps: int | None, temperature: float, ids: Iterator[int]) -> Batch:
    """Rows that go on take at most `steps` more steps (None: until they are done), a new segment each."""
    before = batch.valid.sum(1)
    batch = ctx.extend(batch, temperature=temperature, steps=steps)
    number = torch.tensor([next(ids) for _ in range(len(batch))], device=batch.device)
    new = batch.own & (torch.arange(batch.steps, device=batch.device) >= before[:, None])
    return batch.with_steps({"node": torch.where(new, number[:, None], batch.step["node"])})


@dataclass(frozen=True)
class TreeGroup(Part):
    """A tree of every task: `branching` continuations of the root, of each of them, and so on; `steps` steps a segment,
    the last one until the row is done (SPO-tree, arXiv 2505.23564). A row that is done is branched no more.

    Writes the step column `node`; all leaves of a tree are one group.
    """

    branching: tuple[int, ...] = (6, 6, 6)
    steps: int = 80
    temperature: float = 1.0

    writes = ("node",)

    def __post_init__(self) -> None:
        Group(1, self.temperature)
        if not self.branching or min(self.branching) < 1 or self.steps < 1:
            raise CompositionError(
                f"a tree needs numbers of branches and of steps of at least 1, got {self.branching} and {self.steps}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        batch, ids = rooted(ctx.world.start(draw())), itertools.count(1)
        for depth, width in enumerate(self.branching, 1):
            copies = torch.where(batch.done, 1, width)
            batch = batch[torch.arange(len(batch), device=batch.device).repeat_interleave(copies)]
            batch = grown(ctx, batch, self.steps if depth < len(self.branching) else None, self.temperature, ids)
        return judge(batch)


@dataclass(frozen=True)
class BudgetedTree(Part):
    """`size` leaves of every task (TreePO, arXiv 2508.17445): a first divergence of a random width, then up to `width`
    branches of every path that goes on while leaves are left of the budget. Leaves that are then missing restart from
    a segment's beginning of a finished row.

    steps: of a segment; depth: segments at most (the last one runs until the row is done). first: the range of the
    first width. shares: who gets branches while they are short, "equal", or softmax(+-(mean log-probability of the last
    segment) / heat) for "likely" and "unlikely" paths. restart: from a "random" segment, or the most "unlikely" one.
    """

    size: int = 16
    steps: int = 512
    depth: int = 14
    first: tuple[int, int] = (2, 8)
    width: int = 2
    shares: Literal["equal", "likely", "unlikely"] = "equal"
    heat: float = 1.0
    restart: Literal["random", "unlikely"] = "random"
    temperature: float = 1.0

    writes = ("node",)

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        low, high = self.first
        if min(self.steps, self.depth, self.width, low) < 1 or high < low or self.heat <= 0:
            raise CompositionError(
                "need steps, depth, width and first of at least 1, first in order and heat above 0, got "
                f"{self.steps}, {self.depth}, {self.width}, {self.first} and {self.heat}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        rng, ids = ctx.rng("branches"), itertools.count(1)
        live = rooted(ctx.world.start(draw()))
        low, high = self.first
        width = torch.randint(low, high + 1, (len(live),), generator=rng).clamp(max=self.size)
        live = live[torch.arange(len(live)).repeat_interleave(width).to(live.device)]
        leaves: list[Batch] = []
        for depth in range(1, self.depth + 1):
            live = grown(ctx, live, self.steps if depth < self.depth else None, self.temperature, ids)
            leaves, live = [*leaves, live[live.done]], live[~live.done]
            if not len(live):
                break
            ended = torch.cat([leaf.row["group"] for leaf in leaves])
            live = live[self.branches(live, ended, rng)]
        found = concatenate(leaves)
        missing = self.size - torch.bincount(found.row["group"].unique(return_inverse=True)[1])
        if int(missing.sum()):
            found = concatenate([found, self.restarted(ctx, found, missing, rng, ids)])
        return judge(found)

    def branches(self, live: Batch, ended: Tensor, rng: torch.Generator) -> Tensor:
        """Row numbers: every path that goes on, some of them several times."""
        copies = torch.ones(len(live), dtype=torch.int64)
        last = segment_logp(live, pieces(live, "node"), last=True).cpu()
        for one in live.row["group"].unique():
            rows = (live.row["group"] == one).nonzero()[:, 0].cpu()
            left = self.size - len(rows) - int((ended == one).sum())
            if left <= 0:
                continue
            sign = {"equal": 0.0, "likely": 1.0, "unlikely": -1.0}[self.shares]
            share = (sign * last[rows] / self.heat).softmax(0)
            extra = (left * share).round().long().clamp(max=self.width - 1)
            # What rounding gives too much is taken back, and what it leaves goes round, in random order.
            order = torch.randperm(len(rows), generator=rng).tolist()
            for place in order:
                extra[place] = min(int(extra[place]), max(0, left))
                left -= int(extra[place])
            for place in order:
                more = min(self.width - 1 - int(extra[place]), max(0, left))
                extra[place] += more
                left -= more
            copies[rows] += extra
        return torch.arange(len(live)).repeat_interleave(copies).to(live.device)

    def restarted(self, ctx: Context, found: Batch, missing: Tensor, rng: torch.Generator, ids: Iterator[int]) -> Batch:
        """Rows that begin as finished ones and leave them at the beginning of one of their segments."""
        segments = pieces(found, "node")
        logp = segment_logp(found, segments)
        number = found.row["group"].unique(return_inverse=True)[1][segments.row]
        chosen = []
        for group, count in enumerate(missing.tolist()):
            mine = (number == group).nonzero()[:, 0]
            if self.restart == "random":
                chosen.append(mine[torch.randint(len(mine), (count,), generator=rng).to(mine.device)])
            else:
                chosen.append(mine[logp[mine].argsort(stable=True)].repeat(-(-count // len(mine)))[:count])
        pick = torch.cat(chosen)
        rows = rewinding(ctx.world)(found[segments.row[pick]], segments.first[pick])
        used = segments.place[pick]
        while not bool(rows.done.all()):
            last = bool((used + 1 >= self.depth).any())
            rows = grown(ctx, rows, None if last else self.steps, self.temperature, ids)
            used = used + 1
        return rows


def segment_logp(batch: Batch, segments: Pieces, *, last: bool = False) -> Tensor:
    """(n,) the mean log-probability of every segment's steps; last: (B,) of every row's last segment."""
    total = segments.total(batch.step["behaviour"])
    mean = total / segments.total(torch.ones_like(batch.step["behaviour"])).clamp(min=1)
    if not last:
        return mean
    ends = segments.place + 1 == torch.bincount(segments.row, minlength=len(batch))[segments.row]
    return mean.new_zeros(len(batch)).index_copy(0, segments.row[ends], mean[ends])


@dataclass(frozen=True)
class ProbedGroup(Part):
    """Finished rows, cut where they were unsure: a new segment begins at every `every`-th step that was sampled with a
    probability below `most`; the value of each cut is the mean reward of `probes` fresh rollouts from it (SPO-chain,
    arXiv 2505.23564). Every cut is valued once and used on both of its sides, so that a row's advantages telescope.

    Writes step columns: `value_before` and `value_after`, the values at the ends of a step's segment (after the last
    one: the row's own reward), and `segment`, its number. Probes are judged and thrown away.
    """

    size: int = 1
    probes: int = 9
    every: int = 5
    most: float = 0.9
    temperature: float = 1.0

    writes = ("value_before", "value_after", "segment")

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)
        if min(self.probes, self.every) < 1 or not 0 < self.most <= 1:
            raise CompositionError(
                f"need probes and every of at least 1 and 0 < most <= 1, got {self.probes}, {self.every}, {self.most}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        rewind = rewinding(ctx.world)
        rows = judge(attempt(ctx, draw(), self.size, self.temperature))
        unsure = rows.own & (rows.step["behaviour"].exp() < self.most)
        count = unsure.long().cumsum(1)
        # The k-th, 2k-th ... unsure step begins a segment.
        rows = rows.with_steps({"segment": count.div(self.every, rounding_mode="floor")})
        segments = pieces(rows, "segment")
        cut = rewind(rows[segments.row], segments.first)
        index = torch.arange(len(cut), device=cut.device).repeat_interleave(self.probes)
        probes = judge(ctx.extend(cut[index], temperature=self.temperature))
        told = probes.row["scored"]
        worth = total_reward(probes)
        values = worth.new_zeros(len(cut)).index_add(0, index[told], worth[told])
        known = group_count(index, told).view(-1, self.probes)[:, 0] if len(cut) else told.long()
        values = values / known.clamp(min=1)
        after = torch.cat([values[1:], values[:1]])
        ends = segments.place + 1 == torch.bincount(segments.row, minlength=len(rows))[segments.row]
        after = torch.where(ends, total_reward(rows)[segments.row], after)
        blind = torch.zeros_like(rows.row["scored"]).index_put((segments.row[known == 0],), torch.tensor(True))
        scored = rows.row["scored"] & ~blind
        rows = rows.with_rows({"scored": scored})
        train = rows.step["train"] & scored[:, None]
        columns = {"value_before": segments.spread(values), "value_after": segments.spread(after), "train": train}
        return rows.with_steps(columns)
