"""Knobs of trees of rows."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.credit import trees as credit_trees
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._anytime import KNOWN, Thoughts
from policyopt.evaluation.experiments.structure import Modes
from policyopt.policies.tabular import Table, TableCritic
from policyopt.reward import sets as reward_sets
from policyopt.reward.parts import Verified
from policyopt.sampling import anytime, prefixes, search, sets, trees
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


def thoughts(part: Any) -> Tensor:
    right = torch.randint(4, (KNOWN,), generator=torch.Generator().manual_seed(1))
    world = Thoughts(right, 6, 0.5, 3)
    made = method(sampling=part, reward=Verified(), selection=Selection(2))
    ctx = context(made, {"policy": Table(numbers(world.states, 4, seed=4))}, world, generate)
    found = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([found.step["behaviour"].flatten(), found.row["budget"].double()])


TREE = trees.BudgetedTree(size=8, steps=1, depth=5, first=(4, 4), shares="unlikely")


def of_sets(part: Any) -> Tensor:
    world = Modes(2, 36, 1, lambda strings, task: (strings[:, 0] < 18).double())
    made = method(sampling=part, reward=Verified(), selection=Selection(2))
    ctx = context(made, {"policy": Table(numbers(2, 36, seed=4))}, world, generate)
    found = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([found.row["set"].double(), found.step["behaviour"].flatten()])


def of_worth(part: Any) -> Tensor:
    world = Modes(2, 36, 1, lambda strings, task: (strings[:, 0] < 18).double())
    arms = torch.tensor([0, 1, 3, 20, 0, 4, 8, 30, 0, 21, 22, 23])
    batch = world.complete(world.tasks(torch.zeros(12, dtype=torch.int64)), arms[:, None])
    rows = {"group": torch.zeros(12, dtype=torch.int64), "set": torch.arange(12) // 4}
    ctx = context(method(), grids(), world)
    return part(ctx, Verified()(ctx, batch.with_rows(rows))).step["reward"]


def from_prefixes(part: Any) -> Tensor:
    world = SequenceWorld(3, 3, 6, lambda strings, task: (strings == 1).double().mean(1) * (task + 1) / 3)
    made = method(sampling=part, reward=Verified(), selection=Selection(3))
    ctx = context(made, {"policy": Table(numbers(18, 3, seed=2))}, world, generate)
    found = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([found.row["prefix"].double(), found.step["behaviour"].flatten()])


def searched(part: Any) -> Tensor:
    world = SequenceWorld(1, 3, 5, lambda strings, task: ((strings + 1) % 3 * torch.arange(1, 6)).double().sum(1) / 20)
    made = method(sampling=part, reward=Verified(), selection=Selection(1))
    models = {"policy": Table(numbers(5, 3, seed=2)), "critic": TableCritic(5, torch.float64)}
    with torch.no_grad():
        models["critic"].values.copy_(numbers(5, seed=4))
    ctx = context(made, models, world, generate)
    found = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([found.step["return"].flatten(), found.step["behaviour"].flatten()])


KNOBS = (
    Knob(
        search.LineSearch(12, 3, 3, 0.2, 0.1, 1, None, 1.0),
        searched,
        {
            "iterations": 9,
            "branching": 2,
            "beam": 1,
            "exploration": 5.0,
            "smooth": 20.0,
            "steps": 2,
            "critic": "critic",
            "temperature": 0.5,
        },
    ),
    Knob(
        prefixes.PrefixGroup(4, good=0.3, steps=1, temperature=1.0),
        from_prefixes,
        {"size": 3, "spread": 0.1, "good": 0.6, "share": 1.0, "decay": 0.1, "steps": 2, "temperature": 0.5},
    ),
    Knob(sets.SetsGroup(2, 3), of_sets, {"sets": 3, "size": 4, "temperature": 0.5}),
    Knob(reward_sets.SetWorth(), of_worth, {"weight": 0.5, "heat": 0.1, "least": 0.5}),
    Knob(
        anytime.Anytime(2, (2, 4), answers=2),
        thoughts,
        {"size": 3, "budgets": (1, 4), "answers": 1, "temperature": 0.5},
    ),
    Knob(credit_trees.NodeDifference(scaled=True), credited, {"epsilon": 0.5}),
    Knob(credit_trees.UncertainSteps(0.5), credited, {"most": 0.3}),
    Knob(credit_trees.Whitened(), credited, {"ddof": 0, "epsilon": 0.5}),
    Knob(trees.TreeGroup((2, 2), 3), sampled, {"branching": (3, 2), "steps": 2, "temperature": 0.5}),
    Knob(
        TREE,
        sampled,
        {"size": 5, "steps": 3, "depth": 2, "width": 3, "first": (2, 2), "heat": 0.001, "temperature": 0.5},
    ),
    Knob(
        trees.ProbedGroup(2, probes=2, every=2),
        sampled,
        {"size": 3, "probes": 3, "every": 3, "most": 0.4, "temperature": 0.5},
    ),
)
