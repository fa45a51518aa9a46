"""Advantages from critics beyond plain GAE: two time scales, bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.credit.groups import bounded
from policyopt.credit.returns import GeneralisedAdvantage, returns_to_go
from policyopt.ops.masked import select
from policyopt.ops.pieces import pieces
from policyopt.seen import SeenBatch
from policyopt.types import Batch


@dataclass(frozen=True)
class DecomposedAdvantage(GeneralisedAdvantage):
    """GAE whose time is the turns (column `turn`), not the steps: between steps of one turn the discount is `inside`
    and no time passes, gamma applies from a turn's last step to the next turn's first (action decomposition, arXiv
    2405.15821). inside = gamma is GAE over steps."""

    gamma: float = 0.99
    inside: float = 1.0

    formula = "GAE with gamma_t = gamma at the last step of a turn, inside elsewhere"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.inside <= 1:
            raise CompositionError(f"inside is a discount in 0..1, not {self.inside}")

    def discount(self, batch: Batch) -> Tensor:
        turns = pieces(batch, "turn")
        inside = torch.full_like(batch.step["reward"], self.inside)
        return inside.index_put((turns.row, turns.last), inside.new_tensor(self.gamma))


@dataclass(frozen=True)
class HeldAdvantage(GeneralisedAdvantage):
    """GAE of rows that may be unfinished: what follows the last step of a row that goes on is worth as much as the
    state before that step (EGAE of T-PPO, arXiv 2506.15050); a row that has ended, by itself or by a limit, is
    worth 0 after its end. `return` is the plain discounted reward to go, the critic's target for rows that have ended.
    """

    whitened: bool = False

    formula = "GAE with V(s_l) = V(s_l-1) for rows that go on, 0 for others; G_t = sum_k gamma^(k-t) r_k"

    def beyond(self, batch: Batch, values: Tensor) -> Tensor:
        last = (batch.valid.sum(1, keepdim=True) - 1).clamp(min=0)
        return torch.where(batch.done, 0.0, values.gather(1, last)[:, 0])

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return super().__call__(ctx, batch).with_steps({"return": returns_to_go(batch, self.gamma)})


@dataclass(frozen=True)
class PolicyValueAdvantage(HeldAdvantage):
    """GAE whose values are those of the policy under a critic of choices, V(s) = sum_a pi(a|s) Q(s, a) (HNPG, arXiv
    2311.08384). Rows that go on are worth their last state, as in `HeldAdvantage`; `return` is the reward to go."""

    critic: str = "q"
    lam: float = 1.0

    needs = "action values"
    formula = "GAE with V(s) = sum_a pi(a|s) mean_e Q_e(s, a); G_t = sum_k gamma^(k-t) r_k"

    def values(self, ctx: Context, batch: Batch) -> Tensor:
        seen = SeenBatch(ctx, batch)
        policy: Any = seen.at("policy")
        value = (policy.logp.exp() * seen.q_all(self.critic).mean(0)).sum(-1)
        return torch.cat([value, value[:, -1:]], 1)


@dataclass(frozen=True)
class BoundedAdvantages(Part):
    """Advantages within -bound..bound (PPO-max, arXiv 2307.04964, section 5.3.1: after they are whitened)."""

    bound: float = 0.5

    formula = "A <- clip(A, -bound, bound)"
    reads = ("advantage",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.bound <= 0:
            raise CompositionError(f"the bound of advantages must be above 0, not {self.bound}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch.with_steps({"advantage": bounded(select(batch.own, batch.step["advantage"]), self.bound)})
