"""Knobs of rewards for lengths and of what rows are told."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._told import HintedStrings, ToldStrings, told_strings
from policyopt.policies.tabular import Table
from policyopt.remembered import TASKS
from policyopt.reward import lengths
from policyopt.reward.parts import Verified
from policyopt.sampling import told
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.types import Tasks
from policyopt.worlds.sequences import SequenceWorld
from support import context, method, numbers, ragged, rewarded


def paid(part: Any) -> Tensor:
    """What rows of 3 to 12 steps are paid, five of them right."""
    batch = ragged((3, 6, 4, 8, 5, 9, 12, 7), tools=False)
    batch = rewarded(batch, [1.0, 0.0, 1.0, 1.0, 0.6, 1.0, 0.0, 1.0])
    batch = batch.with_rows({"budget": torch.tensor([4.0, 4, 8, 8, 4, 4, 16, 16])})
    ctx = context(method(), {"policy": torch.nn.Identity()})
    ctx.run.cells[TASKS.name] = {
        lengths.SHORTEST: torch.tensor([2.0, 6.0]).double(),
        lengths.MEDIAN: torch.tensor([5.0, 7.0]).double(),
    }
    return part(ctx, batch).step["reward"]


def paid_with_alike(part: Any) -> Tensor:
    """The same, and what rows are paid whose right ones are of one length."""
    batch = rewarded(ragged((3, 3, 3, 6), tools=False), [1.0, 1.0, 1.0, 0.0])
    alike = part(context(method(), {"policy": torch.nn.Identity()}), batch).step["reward"]
    return torch.cat([paid(part).flatten(), alike.flatten()])


def judged(part: Any, world: Any, policy: Any, count: int = 3) -> Tensor:
    """How many rows were generated and drawn, and what the group's rows have."""
    ctx = context(method(sampling=part, reward=Verified(), selection=Selection(count)), {"policy": policy}, world)
    generated = []

    def engine(policy: Any, world: Any, batch: Any, *rest: Any, **pause: Any) -> Any:
        generated.append(len(batch))
        return generate(policy, world, batch, *rest, **pause)

    ctx.run.engine = engine
    rows = part(ctx, _draw(ctx), _judge(ctx))
    columns = [rows.step["behaviour"].flatten(), rows.step["reward"].flatten()]
    return torch.cat([torch.tensor([float(len(rows)), float(sum(generated))]), *columns])


def hinted(part: Any) -> Tensor:
    """Rewards 0, 0.5 and 1: some tasks are half solved."""
    solution = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1], [1, 1, 1, 0]])

    def share(strings: Tensor, task: Tensor) -> Tensor:
        right = (strings == solution[task]).sum(1)
        return torch.where(right == 4, 1.0, torch.where(right == 3, 0.5, 0.0)).double()

    world = HintedStrings(SequenceWorld(3, 3, 4, share), solution)
    return judged(part, world, Table(numbers(12, 3, seed=2)))


def refined(part: Any) -> Tensor:
    world = ToldStrings(SequenceWorld(3, 3, 2, lambda s, t: (s[:, 0] == t).double()), "draft", 3)
    return judged(part, world, told_strings(numbers(6, 3).float(), torch.eye(3)))


def told_group(part: Any) -> Tensor:
    world = ToldStrings(SequenceWorld(3, 3, 2, lambda s, t: (s[:, 0] == t).double()), "pattern", 2)
    return judged(part, world, told_strings(numbers(6, 3).float(), torch.eye(3)[:2]))


def said(part: Any) -> Tensor:
    ctx = context(method(), {"policy": torch.nn.Identity()})
    return part(ctx, Tasks(torch.tensor([0, 1])))


KNOBS = (
    Knob(lengths.AgainstHistory(), paid, {"weight": 0.5, "right": 0.8, "floor": 0.2}),
    Knob(
        lengths.NearTheMiddle(decay=4.0),
        paid_with_alike,
        {"weight": 0.5, "right": 0.8, "low": 0.1, "high": 0.9, "decay": 2.0, "point": False},
    ),
    Knob(lengths.NearTheTarget(sigma=5.0), paid, {"weight": 0.5, "right": 0.8, "sigma": 2.0}),
    Knob(lengths.WithinBudget(limit=16.0), paid, {"limit": 8.0, "beta": 1.0, "alpha": 0.5, "right": 0.8}),
    Knob(told.Remembered(), said, {"unknown": 7.0}),
    Knob(
        told.ToldGroup(size=4, name="pattern", words=told.Shared((0.0, 1.0))),
        told_group,
        {"size": 6, "temperature": 2.0},
    ),
    Knob(told.HintedGroup(size=4), hinted, {"size": 3, "start": 1, "right": 0.6, "temperature": 0.3}),
    Knob(told.RefinedGroup(), refined, {"size": 3, "drafts": 2, "temperature": 0.3}),
)
