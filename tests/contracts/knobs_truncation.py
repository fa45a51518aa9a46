"""Another value for every option of truncated sampling."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.engines.plain import generate
from policyopt.policies.tabular import Table
from policyopt.sampling.samplers import Group
from policyopt.sampling.truncated import Truncated
from policyopt.worlds.sequences import SequenceWorld
from support import context, method, numbers


def cut(part: Any) -> Tensor:
    """Log-probabilities of what was sampled."""
    world = SequenceWorld(4, 6, 2, lambda strings, task: strings[:, 0].double())
    ctx = context(method(sampling=part), {"policy": Table(numbers(8, 6))}, world, generate)
    return part(ctx, lambda: world.tasks(torch.arange(4)), lambda batch: batch).step["behaviour"]


KNOBS = (Knob(Truncated(Group(4)), cut, {"top_k": 3, "top_p": 0.7, "min_p": 0.2}),)
