"""Knobs of streams of environments, and of the scaling of rewards."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.engines.control import ControlEngine
from policyopt.policies.control import new_actor
from policyopt.reward import scaling
from policyopt.sampling import streams
from policyopt.worlds.gymnasium import EnvironmentWorld
from support import context, method, ragged


def streamed(part: Any) -> Tensor:
    """Shape and behaviour of what is streamed from a small task."""
    world = EnvironmentWorld.make("CartPole-v1")
    policy = new_actor(world.observation_space, world.action_space, head="q").double()
    ctx = context(method(), {"policy": policy}, world.acted_by(policy), ControlEngine())
    batch = part(ctx, None, lambda rows: rows)
    counts = torch.tensor([len(batch), batch.own.sum(), batch.row["_env"].max()])
    return torch.cat([counts.double(), batch.step["behaviour"][batch.own][:5].double()])


def scaled(part: Any) -> Tensor:
    return part(context(method(), {"policy": torch.nn.Identity()}), ragged(tools=False)).step["reward"]


KNOBS = (
    Knob(streams.Stream(horizon=20), streamed, {"horizon": 21, "count": 2, "exploration": 0.5}),
    Knob(scaling.ScaledReward(), scaled, {"gamma": 0.5, "epsilon": 0.5, "clip": 0.1}),
)
