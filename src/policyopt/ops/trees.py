"""Rows that share their first segments, as a tree: the step column `node` says which node (segment) a step belongs to.
A node is the same number in every row that holds it; structure is these ids, so any subset of rows is a tree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.ops.pieces import Pieces, pieces
from policyopt.types import Batch


@dataclass(frozen=True)
class Tree:
    """segments: of the rows. node (n,): the node of every segment, counted from 0. parent, depth (m,): of every node;
    nodes `roots` and above are the roots, one per group, each its own parent. leaf (B,): the last node of every row."""

    segments: Pieces
    node: Int[Tensor, " n"]
    parent: Int[Tensor, " m"]
    depth: Int[Tensor, " m"]
    leaf: Int[Tensor, " B"]
    roots: int

    def values(
        self, worth: Float[Tensor, " B"], known: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
        """The value of every node, and whether it has one: the mean over its children's, and for a leaf its row's worth
        if that is known."""
        total = worth.new_zeros(len(self.parent)).index_add(0, self.leaf[known], worth[known])
        count = worth.new_zeros(len(self.parent)).index_add(0, self.leaf[known], torch.ones_like(worth[known]))
        for depth in range(_most(self.depth), 0, -1):
            here = (self.depth == depth) & (count > 0)
            value = total[here] / count[here]
            total = total.index_add(0, self.parent[here], value)
            count = count.index_add(0, self.parent[here], torch.ones_like(value))
        return total / count.clamp(min=1), count > 0


def _most(x: Tensor) -> int:
    return int(x.max()) if len(x) else 0


def tree_of(batch: Batch) -> Tree:
    """The tree that the rows of every group make."""
    segments = pieces(batch, "node")
    named = torch.stack([batch.row["group"][segments.row], batch.step["node"][segments.row, segments.first]], 1)
    found, node = named.unique(dim=0, return_inverse=True)
    roots = len(found)
    groups, group = batch.row["group"].unique(return_inverse=True)
    before = torch.cat([node[:1], node[:-1]])
    above = torch.where(segments.place > 0, before, roots + group[segments.row])
    parent = torch.arange(roots + len(groups), device=node.device).index_copy(0, node, above)
    depth = torch.zeros_like(parent).index_copy(0, node, segments.place + 1)
    # Segments are in order of time: the last one of a row is written last.
    leaf = roots + group
    for place in range(_most(segments.place) + 1 if len(segments) else 0):
        here = segments.place == place
        leaf = leaf.index_copy(0, segments.row[here], node[here])
    return Tree(segments, node, parent, depth, leaf, roots)
