"""Advantages of the segments of a tree of rows, which rows that share a segment are trained on it, and whitening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_count, group_mean, group_range, group_std, informative
from policyopt.ops.masked import select
from policyopt.ops.sequences import spread, total_reward
from policyopt.ops.trees import tree_of
from policyopt.types import Batch


@dataclass(frozen=True)
class NodeDifference(Part):
    """A segment's advantage is the value of the node that it reaches less that of the node it leaves; a node's value is
    the mean over its children's, a leaf's its row's reward (SPO-tree, arXiv 2505.23564). scaled: over the population
    deviation of the values of its siblings, itself included. A node without a scored leaf has advantage 0."""

    scaled: bool = False
    epsilon: float = 1e-8

    formula = "A_(n -> c) = (V(c) - V(n)) / (1 or std of V over n's children + epsilon)"
    reads = ("node",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise CompositionError(f"epsilon must not be negative, got {self.epsilon}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        tree = tree_of(batch)
        value, known = tree.values(total_reward(batch), batch.row["scored"])
        above = value[tree.parent]
        # The mean of equal children is rounded: a segment on the way to any of them has advantage 0, exactly.
        apart = (value - above).abs() > 8 * torch.finfo(value.dtype).eps * above.abs()
        gain = torch.where(known & apart, value - above, 0.0)
        if self.scaled:
            inner = torch.arange(len(value), device=value.device) < tree.roots
            siblings, counted = tree.parent[inner], known[inner]
            apart = group_range(value[inner], siblings, counted) > 0
            deviation = group_std(value[inner], siblings, counted, 0) + self.epsilon
            gain = torch.where(apart & counted, gain[inner] / deviation.clamp(min=1e-300), 0.0)
        return batch.with_steps({"advantage": tree.segments.spread(gain[tree.node])})


@dataclass(frozen=True)
class NestedGroups(Part):
    """A row's reward less the mean of every nested group that it is in: all rows of its group, those that share its
    first segment, its first two ... (TreePO, arXiv 2508.17445). The differences are averaged, weighted by the "size" of
    the group or alike ("simple"). Groups of one do not count, except the whole one.

    skip_flat: groups of equal rewards do not count either.
    """

    weighting: Literal["size", "simple"] = "size"
    skip_flat: bool = False

    formula = "A_b = sum_d n_d (R_b - mean_{g_d(b)} R) / sum_d n_d, g_d(b): rows that share b's first d segments"
    reads = ("node",)
    writes = ("advantage",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, scored, group = total_reward(batch), batch.row["scored"], batch.row["group"]
        tree = tree_of(batch)
        row = tree.segments.row
        every = torch.arange(len(batch), device=batch.device)
        ids = torch.cat([tree.roots + group.unique(return_inverse=True)[1], tree.node])
        member = torch.cat([every, row])
        worth, counted = reward[member], scored[member]
        size = group_count(ids, counted).to(reward.dtype)
        used = counted & ((size > 1) | (ids >= tree.roots))
        if self.skip_flat:
            used = used & (group_range(worth, ids, counted) > 0)
        weight = torch.where(used, size if self.weighting == "size" else torch.ones_like(size), 0.0)
        away = worth - group_mean(worth, ids, counted)
        total = reward.new_zeros(len(batch)).index_add(0, member, weight * torch.where(used, away, 0.0))
        share = reward.new_zeros(len(batch)).index_add(0, member, weight)
        advantage = torch.where(share > 0, total / share.clamp(min=1e-300), 0.0)
        return batch.with_steps({"advantage": spread(batch, advantage)})


@dataclass(frozen=True)
class EdgesOnce(Part):
    """A segment that several rows share is trained on in the first of them only (of scored rows): it is one training
    episode. flat: also segments of advantage 0 are; else they leave every term."""

    flat: bool = False

    formula = "m_bt = 0 where an earlier row holds the same segment, or A_bt = 0"
    reads = ("node", "advantage")
    writes = ("train",)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        tree = tree_of(batch)
        row = tree.segments.row
        holds = torch.where(batch.row["scored"][row], row, len(batch))
        first = torch.full((tree.roots,), len(batch), device=row.device).scatter_reduce(0, tree.node, holds, "amin")
        mine = tree.segments.spread((first[tree.node] == row).double()) > 0
        train = batch.step["train"] & mine
        if not self.flat:
            train = train & (batch.step["advantage"] != 0)
        return batch.with_steps({"train": train})


@dataclass(frozen=True)
class UncertainSteps(Part):
    """Only steps that were sampled with a probability below `most` are trained on: the others were no decision (SPO's
    probability mask, arXiv 2505.23564). If no step is, all stay."""

    most: float = 0.9

    formula = "m_bt = 0 where pi_behaviour(bt) >= most"
    writes = ("train",)

    def __post_init__(self) -> None:
        if not 0 < self.most <= 1:
            raise CompositionError(
                f"the largest probability of a trained step is above 0 and at most 1, not {self.most}"
            )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        unsure = batch.trained & (batch.step["behaviour"].exp() < self.most)
        return batch.with_steps({"train": unsure}) if bool(unsure.any()) else batch


@dataclass(frozen=True)
class Whitened(Part):
    """Advantages less their mean over the round's trained steps of scored rows, over the root of their variance plus
    epsilon; other steps get 0. A step counts once for every row that it is trained in. flat: rows of groups with equal
    rewards count too; leave them out where the selection drops them afterwards, or their zeros shrink the variance."""

    ddof: int = 1
    epsilon: float = 1e-8
    flat: bool = True

    formula = "A <- (A - mean A) / sqrt(var A + epsilon), over trained steps"
    reads = ("advantage",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1) or self.epsilon < 0:
            raise CompositionError(f"need ddof 0 or 1 and epsilon >= 0, got {self.ddof} and {self.epsilon}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        rows = batch.row["scored"]
        if not self.flat:
            rows = rows & informative(total_reward(batch), batch.row["group"], rows)
        counted = batch.trained & rows[:, None]
        kept = select(counted, batch.step["advantage"])
        entries = kept[counted]
        if not len(entries) or bool((entries == entries[0]).all()):
            return batch.with_steps({"advantage": torch.zeros_like(kept)})
        mean, variance = entries.mean(), entries.var(correction=self.ddof)
        whitened = (kept - mean) / (variance + self.epsilon).sqrt()
        return batch.with_steps({"advantage": select(counted, whitened)})
