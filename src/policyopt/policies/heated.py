"""A policy whose temperature differs from step to step with its own uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from policyopt.compose import CompositionError
from policyopt.ops.entropies import EntropyScale
from policyopt.types import Batch


class Heated(nn.Module):
    """Another policy at temperature 1 + strength h, h in -1..1 the score of its entropy at the next step (HAPO, arXiv
    2509.16591, section 3.2), on the scale of an earlier batch (`UpdateHeat`); as it is until there is one.

    It samples only, step by step (engines.plain): densities are asked of the policy itself. Its parameters are the
    policy's and not saved twice.
    """

    scale: Tensor

    def __init__(self, policy: Any, strength: float):
        super().__init__()
        self.kind, self.strength, self._policy = policy.kind, strength, (policy,)
        self.register_buffer("scale", torch.zeros(4, dtype=torch.float64))

    def next(self, batch: Batch) -> Any:
        dist = self._policy[0].next(batch)
        if not bool(self.scale.any()):
            return dist
        entropy = dist.tempered(batch.row["temperature"]).entropy()
        score = EntropyScale(*self.scale.tolist()).score(entropy).clamp(-1, 1)
        return dist.tempered(1 + self.strength * score)


@dataclass(frozen=True)
class HeatedSampler:
    """Makes a `Heated` sampler of a model. strength: tau."""

    strength: float = 0.05
    of: str = "policy"
    renewed: ClassVar[bool] = True

    def build(self, run: Any, name: str) -> nn.Module:
        if not 0 <= self.strength < 1:
            raise CompositionError(f"the strength of heating is in 0..1, below 1; got {self.strength}")
        return Heated(run.models[self.of], self.strength)
