"""The reward that a policy trained on preferences implies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from policyopt.ops.kept import as_written
from policyopt.types import Batch


class ImplicitReward(nn.Module):
    """r(x, y) = beta (log pi(y | x) - log pi_ref(y | x)), up to a term of the prompt (DPO, arXiv 2305.18290, eq. 5)."""

    def __init__(self, policy: Any, reference: Any, beta: float = 0.1):
        super().__init__()
        if beta <= 0:
            raise ValueError(f"beta must be above 0, not {beta}")
        self.policy, self.reference, self.beta = policy, reference, beta

    def worth(self, batch: Batch, context: str | None = None) -> Tensor:
        """(B,), summed over own steps; never scaled by a temperature."""
        batch = as_written(batch)
        gap = self.policy.score(batch, context).logp.double() - self.reference.score(batch, context).logp.double()
        return self.beta * torch.where(batch.own, gap, 0.0).sum(1)
