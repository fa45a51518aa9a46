"""Search over lines: trees of prefixes that are grown where they promise most, by rollouts or by a value model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.sequences import total_reward
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.types import Batch, concatenate


class Node:
    """A prefix, while it is searched from. row: one row; finished: a rollout through it, if one was made; total,
    visits: of the values backed up."""

    def __init__(
        self,
        row: Batch,
        parent: Node | None = None,
        finished: Batch | None = None,
        total: float = 0.0,
        visits: int = 0,
    ):
        self.row, self.parent, self.finished = row, parent, finished
        self.total, self.visits = total, visits
        self.children: list[Node] = []
        self.selectable = True

    @property
    def value(self) -> float:
        return self.total / max(self.visits, 1)

    @property
    def done(self) -> bool:
        return bool(self.row.done[0])

    def backed_up(self, total: float, visits: int) -> None:
        """Add to this node and all above it."""
        node: Node | None = self
        while node is not None:
            node.total, node.visits, node = node.total + total, node.visits + visits, node.parent


def promise(node: Node, exploration: float, smooth: float) -> float:
    """V(c) + exploration sqrt((1 + ln N(parent)) / (smooth + N(c))) (ReST-RL, arXiv 2508.19576)."""
    assert node.parent is not None
    return node.value + exploration * math.sqrt((1 + math.log(max(node.parent.visits, 1))) / (smooth + node.visits))


def chosen(root: Node, exploration: float, smooth: float) -> Node:
    """The leaf that is reached by always taking the selectable child of largest promise, the first among equals."""
    node = root
    while node.children:
        node = max((c for c in node.children if c.selectable), key=lambda c: promise(c, exploration, smooth))
    return node


@dataclass(frozen=True)
class LineSearch(Part):
    """Monte Carlo tree search over lines of `steps` steps for every task (ReST-RL's VM-MCTS, arXiv 2508.19576): the
    most promising leaf gets `branching` continuations by a line, of which the `beam` of largest value may be selected
    later; their values are backed up to the root. A finished leaf that is selected is counted again.

    critic None: a continuation's value is the reward of a rollout from it. What returns are these rollouts, each
    trained at one step only, the first one behind its line, with the value of its node after the search as `return`:
    targets of a value model (a continuation that is finished has no such step). critic: its value of the prefix; what
    returns is one row per task, the finished one of largest value (a rollout from the most promising leaf if none is
    finished).
    """

    iterations: int = 100
    branching: int = 5
    beam: int = 5
    exploration: float = 0.2
    smooth: float = 0.1
    steps: int = 16
    critic: str | None = None
    temperature: float = 0.7

    writes = ("return", "value")
    critics = named_by("critic")

    def __post_init__(self) -> None:
        Group(1, self.temperature)
        if min(self.iterations, self.branching, self.beam, self.steps) < 1 or self.exploration < 0 or self.smooth <= 0:
            raise CompositionError(
                "need iterations, branching, beam and steps of at least 1, exploration of 0 or more and smooth above "
                "0, "
                f"got {self.iterations}, {self.branching}, {self.beam}, {self.steps}, {self.exploration}, {self.smooth}"
            )

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        start = ctx.world.start(draw())
        found = [self.grown(ctx, Node(start[n : n + 1]), judge) for n in range(len(start))]
        if self.critic is not None:
            return judge(concatenate([self.best(ctx, nodes) for nodes in found]))
        rows = [self.target(node) for nodes in found for node in nodes[1:] if not node.done]
        kept = [row for row in rows if bool(row.trained.any())]
        return concatenate(kept or rows)

    def grown(self, ctx: Context, root: Node, judge: Judge) -> list[Node]:
        """Every node of the tree after the search, the root first."""
        nodes = [root]
        for _ in range(self.iterations):
            leaf = chosen(root, self.exploration, self.smooth)
            if leaf.done:
                leaf.backed_up(leaf.value, 1)
                continue
            copies = torch.zeros(self.branching, dtype=torch.int64, device=leaf.row.device)
            rows = ctx.extend(leaf.row[copies], temperature=self.temperature, steps=self.steps)
            values, finished = self.valued(ctx, rows, judge)
            for n, value in enumerate(values.tolist()):
                through = None if finished is None else finished[n : n + 1]
                leaf.children.append(Node(rows[n : n + 1], leaf, through, value, 1))
            order = sorted(range(self.branching), key=lambda n: -values[n].item())
            for n in order[self.beam :]:
                leaf.children[n].selectable = False
            leaf.backed_up(float(values.sum()), self.branching)
            nodes += leaf.children
        return nodes

    def valued(self, ctx: Context, rows: Batch, judge: Judge) -> tuple[Tensor, Batch | None]:
        """(n,) of prefixes, and rollouts from them; a row whose reward is not known is worth 0."""
        if self.critic is None:
            finished = judge(ctx.extend(rows, temperature=self.temperature))
            return torch.where(finished.row["scored"], total_reward(finished), 0.0), finished
        model: Any = ctx.models[self.critic]
        with torch.no_grad():
            return model.value(rows).gather(1, rows.valid.sum(1, keepdim=True))[:, 0], None

    def target(self, node: Node) -> Batch:
        """The rollout through a node, trained where the node's state is left."""
        assert node.finished is not None
        row = node.finished
        here = torch.arange(row.steps, device=row.device)[None] == node.row.valid.sum(1, keepdim=True)
        blank = torch.zeros_like(row.step["reward"])
        value = torch.where(here, torch.as_tensor(node.value, dtype=blank.dtype), blank)
        return row.with_steps({"train": row.step["train"] & here, "return": value, "value": blank})

    def best(self, ctx: Context, nodes: list[Node]) -> Batch:
        """One finished row of a tree."""
        over = [node for node in nodes if node.done]
        if over:
            row = max(over, key=lambda node: node.value).row
        else:
            row = ctx.extend(chosen(nodes[0], 0.0, self.smooth).row, temperature=self.temperature)
        blank = torch.zeros_like(row.step["reward"])
        return row.with_steps({"return": blank, "value": blank})
