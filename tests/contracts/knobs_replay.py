"""Knobs of updates from a store."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.compose import Term
from policyopt.objective.surrogates import PolicyGradient
from policyopt.update import optimizers, replay
from policyopt.update.averaging import TokenMean
from support import context, grids, method, ragged


def replayed(part: Any) -> Tensor:
    """Parameters, updates, and calls of the policy after two rounds."""
    part = dataclasses.replace(part, optimizers={"policy": optimizers.SGD(0.1)})
    ctx = context(method(Term("a", PolicyGradient(), TokenMean()), update=part, roles={}), grids())
    for _ in range(2):
        part(ctx, ragged((2, 1, 3, 1), tools=False))
    policy = ctx.models["policy"]
    return torch.cat([policy.logp.detach().flatten(), torch.tensor([float(ctx.updates), float(policy.calls)])])


KNOBS = (
    Knob(
        replay.ReplaySteps(clip_norm=1e3, starts=1, size=4),
        replayed,
        {"capacity": 3, "size": 2, "ratio": 0.5, "starts": 12, "micro_rows": 1, "clip_norm": 1e-3},
    ),
)
