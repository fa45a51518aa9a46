"""What tests of control policies share: policies of every head and body, and rows that they acted in a toy world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policyopt.ops.random import uniforms
from policyopt.policies.bodies import CNN, MLP, Body, Recurrent
from policyopt.policies.control import Actor, new_actor
from policyopt.policies.perception import carried
from policyopt.types import Batch, Finish, Source, StepKind, Tasks, empty_batch

FLAT = spaces.Box(-np.inf, np.inf, (5,), np.float32)
PIXELS = spaces.Box(0, 255, (9, 9, 2), np.uint8)
BOX = spaces.Box(np.array([-2.0, 0.0, -1.0], np.float32), np.array([1.0, 3.0, 1.0], np.float32))
SMALL_IMAGE = CNN(((4, 3, 2),), hidden=12)
SPACES: dict[str, tuple[str, Any]] = {
    "categorical": ("auto", spaces.Discrete(4, start=2)),
    "q": ("q", spaces.Discrete(4)),
    "multi": ("auto", spaces.MultiDiscrete([2, 5, 3])),
    "binary": ("auto", spaces.MultiBinary(3)),
    "gaussian": ("auto", BOX),
    "gaussian_state": ("gaussian_state", BOX),
    "squashed": ("squashed", BOX),
    "deterministic": ("deterministic", BOX),
    "beta": ("beta", BOX),
}
BODIES: dict[str, Body] = {
    "mlp": MLP((8, 8)),
    "norm": MLP((8,), "relu", layer_norm=True),
    "cnn": SMALL_IMAGE,
    "gru": Recurrent(MLP((6,)), 7),
    "cnn_gru": Recurrent(SMALL_IMAGE, 7),
}


def actor(head: str = "gaussian", body: str = "mlp", *, normalise: bool = False, seed: int = 1, **more: Any) -> Actor:
    """A policy with weights large enough that nothing is nearly constant."""
    name, action = SPACES[head]
    seen = PIXELS if "cnn" in body else FLAT
    policy = new_actor(seen, action, head=name, body=BODIES[body], normalise=normalise, seed=seed, **more)
    return stirred(policy, seed)


def stirred(module: Any, seed: int, scale: float = 0.3) -> Any:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))
    return module


def observed(policy: Actor, count: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    spec = policy.spec.observations
    if spec.image:
        return torch.randint(0, 256, (count, *spec.shape), generator=rng, dtype=torch.uint8)
    return torch.randn(count, *spec.shape, generator=rng)


def rollout(policy: Actor, lengths: Sequence[int] = (1, 3, 5), seed: int = 0, exploration: float | None = 0.3) -> Batch:
    """Rows of these lengths whose observations are random numbers: what a world and an engine do, written out."""
    count = len(lengths)
    step_type = torch.get_default_dtype() if policy.spec.actions.__class__.__name__ == "Box" else torch.int64
    shape = {"Discrete": (), "Multi": (3,), "Box": (3,)}[type(policy.spec.actions).__name__]
    first = observed(policy, count, seed)
    batch = empty_batch(
        Tasks(torch.arange(count)),
        {"_obs": first[:, None][:, :0], "_action": torch.zeros(count, 0, *shape, dtype=step_type)},
    )
    batch = batch.with_rows({"_obs": first, "source": torch.full((count,), int(Source.POLICY))})
    if exploration is not None:
        batch = batch.with_rows({"_exploration": torch.full((count,), exploration)})
    batch = policy.begin(batch)
    keys = torch.arange(count) + 100 * seed
    with torch.no_grad():
        for t in range(max(lengths)):
            live = torch.tensor(lengths) > t
            dist = policy.next(batch)
            step = dist.sample(uniforms(keys, t, dist.width))
            moved = policy.advance(batch, step)
            after = batch.append(
                {
                    "kind": torch.where(live, int(StepKind.OWN), int(StepKind.PAD))[:, None],
                    "train": live[:, None],
                    "behaviour": torch.where(live, dist.log_prob(step), 0.0)[:, None],
                    "_obs": batch.row["_obs"][:, None],
                    "_action": step[:, None],
                }
            )
            new = observed(policy, count, 1000 * (seed + 1) + t)
            stays = ~live.view(-1, *(1,) * (new.dim() - 1))
            after = after.with_rows({"_obs": torch.where(stays, batch.row["_obs"], new)})
            ended = torch.tensor(lengths) == t + 1
            finish = torch.where(ended, int(Finish.STOPPED), batch.row["finish"])
            batch = carried(batch, after.with_rows({"finish": finish}), moved, live)
    return batch
