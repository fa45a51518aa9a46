"""Demonstrations as one-step bandits: the policy's own draws at every position are rewarded if they match."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import placed, select
from policyopt.seen import distribution
from policyopt.types import Batch, Categorical

DRAWN = "one_step_counts"


@dataclass(frozen=True)
class OneStepRollout(Loss):
    """One-token rollout (arXiv 2509.26313): at every position of a recorded row `count` choices are drawn from the
    policy at `temperature`; the policy gradient of their reward, 1 for the recorded choice and `wrong` for others. No
    sequence is generated.

    count None: the exact expectation at that temperature. Role policy needs `full=True`.
    """

    count: int | None = 256
    temperature: float = 1.0
    wrong: float = -0.1

    needs = "whole distributions, and draws from them"
    formula = "-mean_k R(a_k) log pi(a_k), a_k ~ softmax(logits / temperature), R = 1 if a_k was recorded else wrong"

    def __post_init__(self) -> None:
        if self.temperature <= 0 or (self.count is not None and self.count < 1):
            raise CompositionError(f"need temperature > 0 and count >= 1, got {self.temperature} and {self.count}")

    def chances(self, seen: Seen, batch: Batch) -> Tensor:
        """(n, V) of the trained steps."""
        dist = distribution(seen, "policy")
        if not isinstance(dist, Categorical):
            raise CompositionError("one-step rollouts reward a match, so steps must be choices, not numbers")
        return (dist.logp[batch.trained].detach() / self.temperature).softmax(-1)

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        """The draws (B, T, K) at trained steps: they are the same for all micro-batches of an optimiser step."""
        chances = self.chances(seen, batch)
        if self.count is None:
            return batch
        drawn = torch.zeros(*batch.trained.shape, self.count, dtype=torch.int64, device=batch.device)
        if len(chances):
            rng = seen.rng("one-step rollouts")
            found = torch.multinomial(chances.cpu().double(), self.count, replacement=True, generator=rng)
            drawn[batch.trained] = found.to(batch.device)
        return batch.with_steps({DRAWN: drawn})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        own, dist = batch.trained, distribution(seen, "policy")
        logp, recorded = getattr(dist, "logp")[own], seen.taken()[own][:, None]  # noqa: B009
        if self.count is not None:
            drawn = batch.step[DRAWN][own]
            reward = torch.where(drawn == recorded, 1.0, self.wrong).to(logp)
            return placed(own, -(reward * logp.gather(-1, drawn)).mean(-1))
        reward = torch.full_like(logp, self.wrong).scatter(-1, recorded, 1.0)
        share = self.chances(seen, batch)
        # A choice of probability 0 is never drawn: its logarithm is selected away.
        return placed(own, -(share * reward * select(share > 0, logp)).sum(-1))
