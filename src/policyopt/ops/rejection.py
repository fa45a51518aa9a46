"""Statistical rejection sampling from a list of candidates."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def accepted(reward: Float[Tensor, " N"], count: int, beta: float, rng: torch.Generator) -> list[int]:
    """Candidates whose distribution nears p exp(r / beta) / Z if they were drawn from p (RSO, arXiv 2309.06657,
    algorithm 1): in passes over those that are left, each is taken with probability exp((r - largest left) / beta),
    until `count` are. The largest of a pass is always taken, so that every pass takes some."""
    left, found = list(range(len(reward))), []
    worth = reward.double().tolist()
    while left and len(found) < count:
        top = max(worth[i] for i in left)
        for i in list(left):
            chance = math.exp((worth[i] - top) / beta)
            if float(torch.rand((), generator=rng, dtype=torch.float64)) < chance:
                found.append(i)
                left.remove(i)
                if len(found) == count:
                    break
    return found
