"""Tables that are planned rather than descended: with rewards read out of a person's recorded choices, and with
estimates from comparisons that are perturbed so that they explore. For tables whose states tell the time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Part
from policyopt.ops.pairs import pair_rows
from policyopt.types import Batch
from policyopt.update.optimistic import COUNTED, counted, logits_of, nothing_counted

Counts = Mapping[str, Tensor]
SHARP = 60.0
"""Logits below the best choice's of a greedy table: exp(-60) is nothing beside 1."""
COMPARED = Cell("comparisons asked for", dict)
"""won (M, D): features of the preferred less those of the other trajectory."""


def greedy(q: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
    """Logits of the best choice of every state, the first among equals."""
    return SHARP * (torch.nn.functional.one_hot(q.argmax(1), q.shape[1]) - 1).to(q)


def unheard(ctx: Any, batch: Batch) -> Batch:
    """The rows that are new evidence: a recording is some once, however often epochs come back to it."""
    if not ctx.stage.sampling.data:
        return batch
    draws, place = batch.row["group"].unique(return_inverse=True)
    return batch[place < ctx.world.size - (ctx.drawn - len(draws))]


@dataclass(frozen=True)
class Planned(Part, ABC):
    """After every round the policy is made greedy in a plan from all transitions so far, recorded ones counted once.

    ridge: lambda of all regressions. horizon: H, the most steps of a row. largest: reward of a step, so that what
    follows is worth at most that times the steps left.
    """

    ridge: float = 1.0
    horizon: int = 16
    largest: float = 1.0

    honours_limits = False

    def __post_init__(self) -> None:
        if self.ridge <= 0 or self.horizon < 1 or self.largest <= 0:
            raise CompositionError(
                f"need ridge and largest above 0 and horizon >= 1, got {self.ridge}, {self.largest}, {self.horizon}"
            )

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """Models that it moves."""
        return {"policy": self}

    @abstractmethod
    def plan(self, ctx: Any, batch: Batch, counts: Counts) -> Float[Tensor, "S A"]:
        """Values of every state and choice."""

    def __call__(self, ctx: Any, batch: Batch) -> None:
        logits = logits_of(ctx.models["policy"], "a plan is written into")
        counts = counted(ctx[COUNTED] or nothing_counted(*logits.shape), unheard(ctx, batch))
        with torch.no_grad():
            q = self.plan(ctx, batch, counts)
            if "previous" in ctx.stage.models:
                logits_of(ctx.models["previous"], "the policy before is written into").copy_(logits)
            logits.copy_(greedy(q).to(logits))
        ctx[COUNTED] = counts
        ctx.count_update()

    def steps_left(self, counts: Counts) -> Float[Tensor, "S 1"]:
        """From every state to the end of a row, the state's own included."""
        return (self.horizon - counts["at"].clamp(min=0)).double()[:, None]

    def moves(self, counts: Counts) -> tuple[Float[Tensor, "S A S"], Float[Tensor, "S A"]]:
        """Transitions by ridge regression, and the width 1 / sqrt(n + lambda) of what is known."""
        seen = counts["visits"] + self.ridge
        return counts["reached"] / seen[..., None], seen.rsqrt()


def choice_values(counts: Counts, discount: float, known: int, horizon: int) -> Float[Tensor, "S A"]:
    """Q^ of somebody who chooses with probability softmax(Q^): log-odds against the choice `known`, whose reward is 0,
    plus discount E[log sum exp Q^] of what follows that choice. 1/2 is added to the counts of choices."""
    visits = counts["visits"]
    odds = (visits + 0.5).log() - (visits[:, known, None] + 0.5).log()
    move = counts["reached"][:, known] / visits[:, known, None].clamp(min=1)
    values = odds
    for _ in range(horizon):
        values = odds + discount * (move @ values.logsumexp(1))[:, None]
    return values


@dataclass(frozen=True)
class PessimisticChoices(Planned):
    """DCPPO (arXiv 2305.18438): from recorded choices of a person who maximises discounted rewards with logistic
    errors, first that person's values, then the rewards, then a plan that is charged for what was rarely seen.

    discount: the person's. known: the choice whose reward is 0. pessimism: c, 0 for none.
    """

    discount: float = 1.0
    known: int = 0
    pessimism: float = 1.0

    formula = (
        "Q^ = log pi_b - log pi_b(a0) + g E[V^ | a0], r^ = sum_i (Q^ - g V^(s'_i)) / (n + lambda), pi greedy in "
        "clip(r^ + P^ V - c / sqrt(n + lambda), 0, (H - h) largest)"
    )
    version = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.discount <= 1 or self.known < 0 or self.pessimism < 0:
            raise CompositionError(
                f"need discount in 0..1, known and pessimism >= 0, got {self.discount}, {self.known}, {self.pessimism}"
            )

    def rewards(self, counts: Counts) -> Float[Tensor, "S A"]:
        """argmin_r sum_i (r + discount V^(s'_i) - Q^)^2 + lambda r^2."""
        values = choice_values(counts, self.discount, self.known, self.horizon)
        following = counts["reached"] @ values.logsumexp(1)
        return (counts["visits"] * values - self.discount * following) / (counts["visits"] + self.ridge)

    def plan(self, ctx: Any, batch: Batch, counts: Counts) -> Tensor:
        rewards, (move, width) = self.rewards(counts), self.moves(counts)
        most, q = self.largest * self.steps_left(counts), torch.zeros_like(rewards)
        for _ in range(self.horizon):
            q = torch.minimum((rewards + move @ q.max(1).values - self.pessimism * width).clamp(min=0), most)
        return q


def features(batch: Batch, states: int, choices: int) -> Float[Tensor, "B D"]:
    """How often every row makes every choice in every state; states are counted again from `states` on."""
    index = (batch.step["_state"] % states) * choices + batch.step["_step"]
    blank = torch.zeros(len(batch), states * choices, dtype=torch.float64)
    return blank.scatter_add(1, torch.where(batch.own, index, 0), batch.own.double())


def logistic_fit(won: Float[Tensor, "M D"], ridge: float, steps: int = 30) -> Float[Tensor, " D"]:
    """argmin_theta -sum_i log sigma(theta . won_i) + ridge |theta|^2 / 2, by Newton steps that are halved until they
    help."""

    def loss(theta: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-won @ theta).sum() + 0.5 * ridge * theta @ theta

    theta, eye = won.new_zeros(won.shape[1]), torch.eye(won.shape[1], dtype=won.dtype)
    for _ in range(steps):
        p = torch.sigmoid(-won @ theta)
        slope = ridge * theta - won.T @ p
        change = torch.linalg.solve(ridge * eye + won.T @ (won * (p * (1 - p))[:, None]), slope)
        size = 1.0
        while size > 1e-6 and loss(theta - size * change) > loss(theta):
            size /= 2
        theta = theta - size * change
        if float(change.abs().max()) < 1e-10:
            break
    return theta


def disagreement(apart: Float[Tensor, "M D"], covariance: Float[Tensor, "D D"], noise: float) -> Float[Tensor, " M"]:
    """E |(theta - theta') . d| of two draws from N(theta^, noise^2 covariance^-1): (2 / sqrt(pi)) noise |d|."""
    norm = (apart * torch.linalg.solve(covariance, apart.T).T).sum(1).clamp(min=0).sqrt()
    return 2 / math.sqrt(math.pi) * noise * norm


@dataclass(frozen=True)
class RandomisedPlan(Planned):
    """PR-LSVI (arXiv 2310.14554): rewards are fitted to comparisons of trajectories; rewards and values are perturbed
    as far as they are uncertain, which explores. The label of a pair is used only if two draws of the rewards are
    expected to disagree about it by more than `ask` (below 0: always). A model `previous`, if there is one, becomes
    the policy before.

    reward_noise, value_noise: s_r, s_p. states: of the process, if the table repeats them at every time (state
    t * states + s), so that rewards are alike at all times; None: a reward of its own for every state of the table.
    """

    reward_noise: float = 1.0
    value_noise: float = 1.0
    ask: float = 0.0
    states: int | None = None

    formula = (
        "theta ~ N(theta^, s_r^2 Sigma^-1), w ~ N(w^, s_p^2 Lambda^-1), pi greedy in phi theta + clip(phi w, 0, "
        "(H - h - 1) largest); asked iff (2 / sqrt(pi)) s_r |dphi|_{Sigma^-1} > ask"
    )
    reads = ("pair", "rank")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.reward_noise, self.value_noise) < 0 or (self.states is not None and self.states < 1):
            raise CompositionError(
                f"need noises of 0 or more and a state, got {self.reward_noise}, {self.value_noise}, {self.states}"
            )

    def plan(self, ctx: Any, batch: Batch, counts: Counts) -> Tensor:
        table, choices = counts["visits"].shape
        states = table if self.states is None else self.states
        won, covariance = self.asked(ctx, batch, states, choices)
        noise = torch.randn(states * choices, generator=ctx.rng("rewards"), dtype=torch.float64)
        spread = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance).T, noise[:, None], upper=True)[:, 0]
        theta = logistic_fit(won, self.ridge) + self.reward_noise * spread
        rewards = theta.view(states, choices)[torch.arange(table) % states]
        move, width = self.moves(counts)
        shift = self.value_noise * width * torch.randn(table, choices, generator=ctx.rng("values"), dtype=torch.float64)
        most, q = self.largest * (self.steps_left(counts) - 1), rewards
        for _ in range(self.horizon):
            q = rewards + torch.minimum((move @ q.max(1).values + shift).clamp(min=0), most)
        return q

    def asked(self, ctx: Any, batch: Batch, states: int, choices: int) -> tuple[Tensor, Tensor]:
        """All comparisons so far, with those of this round that were asked for, and lambda I + sum d d^T."""
        chosen, rejected = pair_rows(batch).T
        made = features(batch, states, choices)
        apart = made[chosen] - made[rejected]
        held = ctx[COMPARED].get("won", apart[:0])
        eye = torch.eye(apart.shape[1], dtype=torch.float64)
        ask = disagreement(apart, self.ridge * eye + held.T @ held, self.reward_noise) > self.ask
        won = torch.cat([held, apart[ask]])
        ctx.meter.add("asked", int(ask.sum()), 1)
        ctx[COMPARED] = {"won": won}
        return won, self.ridge * eye + won.T @ won
