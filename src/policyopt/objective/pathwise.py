"""Losses that move a policy through a critic of steps: by the gradient of Q(s, a) with respect to the policy's own a.

The noise of a is drawn in `plan`, once per optimiser step, so that micro-batches change nothing. Only the model that a
term trains gets a gradient; the critic stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, Part, Seen, named_by
from policyopt.objective.action_values import (
    Heads,
    amount,
    check_heads,
    expected,
    named,
    over_heads,
    own_noise,
    own_steps,
)
from policyopt.ops.masked import select
from policyopt.types import Batch, Categorical


def planned_noise(seen: Seen, batch: Batch, purpose: str) -> Batch:
    """The batch with the column `_noise`, if steps are numbers."""
    noise = own_noise(seen, purpose)
    return batch if noise is None else batch.with_steps({"_noise": noise})


@dataclass(frozen=True)
class ValueOfMode(Loss):
    """The deterministic policy gradient: -Q at the policy's mode (arXiv 1509.02971; TD3, arXiv 1802.09477)."""

    critic: str = "critic"
    heads: Heads = "first"

    formula = "-Q(s, mu(s))"
    needs = "action values"
    critics = named_by("critic")

    def __post_init__(self) -> None:
        check_heads(self.heads)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return select(batch.trained, -over_heads(seen.q(self.critic, seen.at("policy").mode()), self.heads))


@dataclass(frozen=True)
class ByValueScale(Part):
    """A term's weight: alpha over the mean |Q(s, mu(s))| of the optimiser step (TD3+BC, arXiv 2106.06860, eq. 5), so
    that the share of the term does not depend on the scale of rewards."""

    alpha: float = 2.5
    critic: str = "critic"

    formula = "alpha / mean |Q_1(s, mu(s))|"
    needs = "action values"

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise CompositionError(f"alpha must be above 0, not {self.alpha}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        q = select(batch.trained, seen.q(self.critic, seen.at("policy").mode())[0])
        return self.alpha / (q.abs().sum() / batch.trained.sum().clamp(min=1)).clamp(min=1e-8)


@dataclass(frozen=True)
class SoftImprovement(Loss):
    """SAC's policy loss (arXiv 1812.05905, eq. 9), exact over finitely many choices (arXiv 1910.07207, eq. 12).

    temperature: a number or the name of a `Scalar`.
    """

    temperature: float | str = 0.2
    critic: str = "critic"
    heads: Heads = "least"

    formula = "alpha log pi(a|s) - min_e Q_e(s, a), a ~ pi(.|s) reparameterised"
    needs = "action values"

    def __post_init__(self) -> None:
        check_heads(self.heads)

    @property
    def critics(self) -> tuple[str, ...]:
        return (self.critic, *named(self.temperature))

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        return planned_noise(seen, batch, "own step")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        value, logp = own_steps(seen, seen.at("policy"), batch.step.get("_noise"), self.critic, self.heads)
        return select(batch.trained, amount(seen, self.temperature) * logp - value)


@dataclass(frozen=True)
class MirrorDescent(Loss):
    """MDPO's off-policy loss (arXiv 2005.09814, section 4.2): a step of mirror descent from the policy `old`, towards
    larger values and entropy. proximity: the weight of KL(pi || old); temperature: of the entropy.

    With proximity = temperature, `old` has no weight and the loss is SAC's with the critic's first head.
    """

    proximity: float = 1.0
    temperature: float = 0.2
    critic: str = "critic"
    old: str = "old"
    heads: Heads = "first"

    formula = "c log pi(a|s) + (lam - c) log pi_old(a|s) - Q_1(s, a), a ~ pi(.|s) reparameterised"
    needs = "action values"
    roles = named_by("old")
    critics = named_by("critic")

    def __post_init__(self) -> None:
        check_heads(self.heads)
        if self.proximity <= 0:
            raise CompositionError(f"proximity must be above 0, not {self.proximity}: it is one over a step size")

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        return planned_noise(seen, batch, "own step")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        dist, old = seen.at("policy"), seen.at(self.old)
        noise = batch.step.get("_noise")
        value, logp = own_steps(seen, dist, noise, self.critic, self.heads)
        # The old policy is frozen, but the step it is asked about is the new one's: its gradient goes through that.
        before = expected(dist, old.logp) if isinstance(dist, Categorical) else old.log_prob(dist.draw(noise)[0])
        loss = self.proximity * logp + (self.temperature - self.proximity) * before - value
        return select(batch.trained, loss)


@dataclass(frozen=True)
class TemperatureError(Loss):
    """Moves a temperature until the policy's entropy is `entropy` per dimension of a step (arXiv 1812.05905, eq. 18):
    -1 in the paper, for actions between -1 and 1. Of choices the entropy is exact and `entropy` is the whole of it,
    above 0: below, the temperature would fall to 0 whatever the policy does."""

    temperature: str = "temperature"
    entropy: float = -1.0

    formula = "alpha (H(pi(.|s)) - H_target)"
    needs = "distributions at the states"
    critics = named_by("temperature")

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        dist, noise = seen.at("policy"), own_noise(seen, "entropy")
        if noise is None and self.entropy <= 0:
            raise CompositionError(
                f"the entropy of choices is never below 0, so that a target of {self.entropy} turns the temperature "
                "off; set constraint.entropy above 0, for instance to half of log(number of choices)"
            )
        found = dist.entropy() if noise is None else -dist.draw(noise)[1]
        return batch.with_steps({"_entropy": select(batch.trained, found)})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        taken = seen.taken()
        target = self.entropy * (taken.shape[-1] if taken.is_floating_point() else 1)
        return seen.scalar(self.temperature) * select(batch.trained, batch.step["_entropy"] - target)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        held = seen.scalar(self.temperature).detach()
        return {"entropy": batch.step["_entropy"], "temperature": held.expand_as(batch.step["_entropy"])}
