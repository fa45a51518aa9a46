"""Policies that own nothing but the prior of a chain, and critics that know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from policyopt.policies.denoisers import Embedding, seeded
from policyopt.policies.denoising import LATENT, Denoiser, LearnedPrior
from policyopt.types import Batch


def only_prior(network: nn.Module, chain: Any, **options: Any) -> Denoiser:
    """A denoiser whose network is frozen and whose initial noise is learned. `chain` must be deterministic."""
    if float(chain.std.max()) > 0:
        raise ValueError("the chain behind a learned prior is part of the environment: use eta = 0")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    prior = LearnedPrior(network.dims)  # pyright: ignore[reportArgumentType]
    return Denoiser(network, chain, prior=prior, **options)


class PriorCritic(nn.Module):
    """V(m, s, condition): what a sample drawn from the prior N(m, s^2) for a condition will be worth (FIND)."""

    def __init__(self, policy: Denoiser, rng: torch.Generator, width: int = 64):
        super().__init__()
        self.column = policy.condition
        with seeded(rng):
            self.given = Embedding(policy.network.conditions, width)
            self.enter, self.leave = nn.Linear(2 * policy.dims, width), nn.Linear(width, 1)

    def value(self, batch: Batch) -> Tensor:
        """(B, T + 1), the same before every step. Reads the column `_prior`."""
        condition = None if self.column is None else batch.row[self.column]
        hidden = self.enter(batch.row["_prior"].to(batch.row[LATENT])) + self.given(condition)
        return self.leave(torch.tanh(hidden)).expand(-1, batch.steps + 1)


@dataclass(frozen=True)
class PriorValue:
    """The spec of a `PriorCritic` of a policy."""

    of: str = "policy"
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        return PriorCritic(run.models[self.of], run.rng(f"build/{name}"))
