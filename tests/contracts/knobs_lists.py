"""Knobs of parts that make pairs and lists."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.engines.plain import generate
from policyopt.feedback.lists import AcceptedPairs
from policyopt.policies.tabular import Table
from policyopt.sampling.forks import ForkedTurns
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import SequenceWorld
from support import context, grids, method, numbers, ragged, rewarded, with_row


def accepted(part: Any) -> Tensor:
    batch = rewarded(with_row(ragged((2,) * 8), group=[0, 1] * 4), numbers(8, seed=1))
    done = part(context(method(), grids()), batch)
    return torch.cat([done.row["pair"], done.row["rank"]])


def forked(part: Any) -> Tensor:
    """How many rows, and the sampler's log-probabilities."""
    world = SequenceWorld(50, 3, 3, lambda strings, task: strings[:, 0].double())
    ctx = context(method(sampling=part), {"policy": Table(numbers(150, 3))}, world, generate)
    batch = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([torch.tensor([float(len(batch))]), batch.step["behaviour"].flatten()])


KNOBS = (
    Knob(AcceptedPairs(count=4), accepted, {"count": 2, "beta": 1e-3}),
    Knob(ForkedTurns(), forked, {"size": 3, "temperature": 0.5}),
)
