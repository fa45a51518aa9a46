"""The reference engine: `policy.next` and `world.append`, one step at a time. Serves every policy and world."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policyopt.ops.kept import left_over, remembered
from policyopt.ops.random import uniforms
from policyopt.policies.perception import carried
from policyopt.truncation import CUT
from policyopt.types import Batch


def generate(
    policy: Any,
    world: Any,
    batch: Batch,
    keys: Tensor,
    temperature: float,
    version: int,
    steps: int | None = None,
) -> Batch:
    """Steps until every row is done, at most `steps` of them. temperature 0 takes the mode. The n-th step of a row uses
    the n-th numbers of the row's own stream, so rows do not depend on their neighbours."""
    position = 0
    remembers = getattr(policy, "memory", 0) > 0
    if remembers and not batch.steps:
        batch = policy.begin(batch)
    with torch.no_grad():
        while not bool(batch.done.all()) and (steps is None or position < steps):
            live, kept = ~batch.done, None
            dist = policy.next(batch)
            if temperature == 0:
                step = dist.mode()
            else:
                dist = dist.tempered(batch.row["temperature"])
                if CUT in batch.row:
                    dist, kept = left_over(dist, batch.row[CUT])
                step = dist.sample(uniforms(keys, position, dist.width))
            after = world.append(batch, step, dist.log_prob(step), live, version)
            if kept is not None:
                after = remembered(after, live.nonzero()[:, 0], batch.valid.sum(1)[live], kept[live])
            batch = carried(batch, after, policy.advance(batch, step), live) if remembers else after
            position += 1
    return batch
