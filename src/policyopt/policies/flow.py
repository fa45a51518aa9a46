"""A flow in the space of a policy's hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from policyopt.compose import CompositionError
from policyopt.policies.bodies import GAIN, orthogonal
from policyopt.types import Batch


class HiddenFlow(nn.Module):
    """The velocity of x = share h + (1 - share) noise, h a policy's hidden state after a step, given the one before
    (zeros before the first step). The policy's parameters are not this model's."""

    def __init__(self, policy: Any, width: int, rng: torch.Generator):
        super().__init__()
        self._policy, size = (policy,), policy.hidden_size
        like = next(policy.parameters())
        layers = [orthogonal(nn.Linear(2 * size + 1, width), GAIN, rng), nn.SiLU()]
        layers += [
            orthogonal(nn.Linear(width, width), GAIN, rng),
            nn.SiLU(),
            orthogonal(nn.Linear(width, size), 1.0, rng),
        ]
        self.network = nn.Sequential(*layers).to(like.device)

    def hidden(self, batch: Batch) -> Tensor:
        """(B, T, D) without gradient."""
        with torch.no_grad():
            return self._policy[0].hidden(batch).to(next(self.network.parameters()).dtype)

    def deviation(self, hidden: Tensor, noise: Tensor, share: Tensor) -> Tensor:
        """(B, T) mean_d (v - (h - noise))^2 at shares (B, T) of the flow's time."""
        before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], 1)
        part = share[..., None].to(hidden.dtype)
        point = part * hidden + (1 - part) * noise
        said = self.network(torch.cat([point, before, part], -1))
        return ((said - (hidden - noise)) ** 2).mean(-1)


@dataclass(frozen=True)
class FlowOfHidden:
    """A `HiddenFlow` over the hidden states of a model. width: of its two hidden layers."""

    width: int = 64
    of: str = "policy"
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        policy = run.models[self.of]
        if not hasattr(policy, "hidden"):
            raise CompositionError(
                f"model {name!r} is a flow of hidden states, which {type(policy).__name__} policies do not show; use a "
                "language or a linear policy"
            )
        return HiddenFlow(policy, self.width, run.rng(f"build/{name}"))
