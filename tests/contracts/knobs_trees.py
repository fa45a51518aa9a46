"""Knobs of trees of rows."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.credit import trees as credit_trees
from policyopt.engines.plain import generate
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.sampling import trees
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import SequenceWorld
from support import context, grids, method, numbers, ragged

NODES = torch.tensor([[1] * 3 + [2] * 10, [1] * 3 + [3] * 10, [1] * 3 + [4] * 10, [5] * 13])


def credited(part: Any) -> Tensor:
    batch = ragged()
    batch = batch.with_rows({"group": torch.zeros_like(batch.row["group"])}).with_steps({"node": NODES})
    found = part(context(method(), grids()), batch)
    return torch.cat([found.step[name].double().flatten() for name in part.writes])


def sampled(part: Any) -> Tensor:
    world = SequenceWorld(3, 4, 9, lambda strings, task: (strings == 1).double().mean(1), end=0)
    policy = Table(numbers(27, 4, seed=4) - torch.tensor([1.0, 0.0, 0.0, 0.0]))
    made = method(sampling=part, reward=Verified(), selection=Selection(3))
    ctx = context(made, {"policy": policy}, world, generate)
    found = part(ctx, _draw(ctx), _judge(ctx))
    columns = [found.step["behaviour"], *(found.step[name].double() for name in part.writes)]
    return torch.cat([column.flatten() for column in columns])


TREE = trees.BudgetedTree(size=9, steps=2, depth=4, first=(2, 3), shares="unlikely")

KNOBS = (
    Knob(credit_trees.NodeDifference(scaled=True), credited, {"epsilon": 0.5}),
    Knob(credit_trees.UncertainSteps(0.5), credited, {"most": 0.3}),
    Knob(credit_trees.Whitened(), credited, {"ddof": 0, "epsilon": 0.5}),
    Knob(trees.TreeGroup((2, 2), 3), sampled, {"branching": (3, 2), "steps": 2, "temperature": 0.5}),
    Knob(
        TREE,
        sampled,
        {"size": 5, "steps": 3, "depth": 2, "width": 3, "first": (4, 4), "heat": 0.01, "temperature": 0.5},
    ),
    Knob(
        trees.ProbedGroup(2, probes=2, every=2),
        sampled,
        {"size": 3, "probes": 3, "every": 3, "most": 0.4, "temperature": 0.5},
    ),
)
