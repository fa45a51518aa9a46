"""Denoising policies: a row is a chain whose step 0 draws the initial noise and whose steps 1..K denoise it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.ops.matching import MATCH_DROPPED, MATCH_NOISE, MATCH_TIME, Matching, Renoised
from policyopt.policies.chains import NoiseChain, clean_and_noise
from policyopt.policies.denoisers import Conditions, Embedding, seeded, waves
from policyopt.policies.transitions import Transition
from policyopt.types import Batch, Scores

LATENT, NEXT, CLOCK, CONDITION = "_latent", "_next", "_clock", "_condition"
"""State: the latent before each step (row: after the last), the latent drawn, the step's number 0..K, the condition."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance u = u_none + scale (u_condition - u_none) (arXiv 2207.12598, with scale = 1 + w): one
    function for sampling and scoring."""

    scale: float = 1.0

    def __call__(self, network: Any, latent: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        if self.scale == 1:
            return network(latent, time, condition)
        if condition is None:
            raise ValueError("guidance needs conditions, and these rows carry none; use guidance=None")
        none = network.conditions.without(condition)
        both = network(torch.cat([latent] * 2), torch.cat([time] * 2), torch.cat([condition, none]))
        given, unconditional = both.chunk(2)
        return unconditional + self.scale * (given - unconditional)


class StandardPrior(nn.Module):
    """The usual initial noise N(0, I)."""

    def forward(self, like: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and std of the initial noise, in the shape of latents (N, D)."""
        return torch.zeros_like(like), torch.ones_like(like)


class LearnedPrior(nn.Module):
    """Initial noise N(m, diag(s^2)) with learned m and s >= least, alike for every condition (FIND)."""

    def __init__(self, dims: int, least: float = 1e-4):
        super().__init__()
        self.mean, self.std, self.least = nn.Parameter(torch.zeros(dims)), nn.Parameter(torch.ones(dims)), least

    def forward(self, like: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.mean.to(like).expand_as(like), self.std.to(like).clamp(min=self.least).expand_as(like)


class Denoiser(nn.Module):
    """A network, the chain it is sampled by and a prior.

    network: (latents (N, D), times (N,), conditions) -> (N, D), with attributes `dims` and `conditions`. condition:
    the column it is conditioned on: a row column of the task ("_condition") or a state ("_obs", in control); None: no
    condition. critic: what `make_critic` makes (None: ConditionCritic). Steps that are not trained are not evaluated
    by `score`: their log-probabilities are nan, which every part selects away; a part that did not would fail loudly.
    """

    kind = "denoising"

    def __init__(
        self,
        network: Any,
        chain: NoiseChain,
        condition: str | None = CONDITION,
        guidance: Guidance = Guidance(),
        prior: nn.Module | None = None,
        critic: type[ConditionCritic | LatentCritic] | None = None,
    ):
        super().__init__()
        self.network, self.chain, self.condition, self.guidance = network, chain, condition, guidance
        self.prior = StandardPrior() if prior is None else prior
        self.critic = ConditionCritic if critic is None else critic
        if not (network.conditions.classes or network.conditions.features):
            self.condition = None

    @property
    def dims(self) -> int:
        return self.network.dims

    @property
    def steps(self) -> int:
        """Steps of one chain: the draw of the initial noise and K transitions."""
        return self.chain.steps + 1

    # -- acting and scoring ------------------------------------------------------------------------------------
    def next(self, batch: Batch) -> Transition:
        """Of the next latent (B, D), from the row state."""
        given = None if self.condition is None else batch.row[self.condition]
        clock = batch.row[CLOCK].clamp(max=self.chain.steps)
        every = torch.ones_like(clock, dtype=torch.bool)
        return self._transitions(batch.row[LATENT], clock, given, every)

    def at(self, batch: Batch, *, following: bool = False) -> Transition:
        """(B, T, D) at the state before each step, or at the state that follows it, under the rows' temperature (0
        counts as 1); every step is evaluated."""
        latent, clock = ((batch.following(n) if following else batch.step[n]) for n in (LATENT, CLOCK))
        given = self._conditions(batch, following=following)
        every = torch.ones_like(clock, dtype=torch.bool)
        return _tempered(self._transitions(latent, clock.clamp(max=self.chain.steps), given, every), batch)

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        dist = self._transitions(
            batch.step[LATENT], batch.step[CLOCK], self._conditions(batch, following=False), batch.trained
        )
        dist = _tempered(dist, batch)
        return Scores(dist.log_prob(self.taken(batch)), dist.entropy(), dist if full else None)

    def taken(self, batch: Batch) -> Tensor:
        """(B, T, D) the latents that were drawn."""
        return batch.step[NEXT]

    def predict(self, latent: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        """What the network says of latents (N, D), with guidance."""
        return self.guidance(self.network, latent, time, condition)

    def _conditions(self, batch: Batch, *, following: bool) -> Tensor | None:
        """(B, T, ...): a state at the steps, or the row's condition at each of them."""
        name = self.condition
        if name is None:
            return None
        if name in batch.step:
            return batch.following(name) if following else batch.step[name]
        column = batch.row[name]
        return column[:, None].expand(-1, batch.steps, *column.shape[1:])

    def _transitions(self, latent: Tensor, clock: Tensor, condition: Tensor | None, wanted: Tensor) -> Transition:
        """Lead shape of `clock`. Entries that are not wanted have mean nan (and so log-probability nan, if random)."""
        prior = clock == 0
        std = torch.cat([self.chain.std.new_ones(1), self.chain.std]).to(latent)[clock]
        mean, std = torch.full_like(latent, float("nan")), std[..., None].expand_as(latent)
        if bool(prior.any()):
            given = None if condition is None else condition[prior]
            m, s = self.prior(latent[prior], given)
            mean = mean.masked_scatter(prior[..., None], m)
            std = std.masked_scatter(prior[..., None], s)
        chosen = wanted & ~prior
        if bool(chosen.any()):
            given = None if condition is None else condition[chosen]

            def predict(x: Tensor, time: Tensor) -> Tensor:
                return self.predict(x, time, given)

            reached = self.chain.transition(predict, latent[chosen], clock[chosen] - 1)
            mean = mean.to(reached.mean.dtype).masked_scatter(chosen[..., None], reached.mean)
        return self.chain.gaussian(mean, std)

    # -- the forward process -----------------------------------------------------------------------------------
    def noise(self, batch: Batch, rng: torch.Generator, points: int = 1) -> dict[str, Tensor]:
        """Row columns `match_time` (B, P) and `match_noise` (B, P, D): where and with what `match` noises the rows."""
        like = batch.row[LATENT]
        uniform = torch.rand(len(batch), points, generator=rng, dtype=like.dtype)
        noise = torch.randn(len(batch), points, like.shape[-1], generator=rng, dtype=like.dtype)
        return {MATCH_TIME: self.chain.path.training_time(uniform).to(like.device), MATCH_NOISE: noise.to(like.device)}

    def match(self, batch: Batch) -> Matching:
        """The network on the rows' final latents, noised as the columns `match_*` say. Without guidance; points of
        `match_dropped` are shown no condition."""
        time, noise = batch.row[MATCH_TIME], batch.row[MATCH_NOISE]
        clean = batch.row[LATENT][:, None].expand_as(noise)
        noised, target, scale = self.chain.target(clean, noise, time)
        said = self.network(noised.flatten(0, 1), time.flatten(), self._matched_conditions(batch))
        return Matching(said.view_as(noised), target, time, scale)

    def _matched_conditions(self, batch: Batch) -> Tensor | None:
        if self.condition is None:
            return None
        column, time = batch.row[self.condition], batch.row[MATCH_TIME]
        given = column[:, None].expand(*time.shape, *column.shape[1:]).flatten(0, 1)
        if MATCH_DROPPED not in batch.row:
            return given
        hidden = batch.row[MATCH_DROPPED].flatten().view(-1, *(1,) * (given.dim() - 1))
        return torch.where(hidden, self.network.conditions.without(given), given)

    def renoised(self, batch: Batch, steps: Tensor, share: Tensor, noise: Tensor) -> Renoised:
        """What the network says of the noise in steps (B, T, D), noised at shares (B, T) in 0..1 of the training times,
        under the condition of each step. Without guidance."""
        own = batch.trained
        time = self.chain.path.training_time(share)
        a, b = self.chain.path.marginal(time)
        given = self._conditions(batch, following=False)
        signal, level = a[own][:, None], b[own][:, None]
        noised = signal * steps[own] + level * noise[own]
        u = self.network(noised, time[own], None if given is None else given[own])
        said = clean_and_noise(self.chain.prediction, u, noised, signal, level)[1]
        return Renoised(torch.zeros_like(noise).masked_scatter(own[..., None], said.to(noise.dtype)), a, b)

    # -- critics -------------------------------------------------------------------------------------------------
    def make_critic(self, rng: torch.Generator) -> ConditionCritic | LatentCritic:
        """By default the value of what the chain is conditioned on: the observation in control, the task elsewhere."""
        return self.critic(self.network.conditions, self.condition, self.dims, rng)


def _tempered(dist: Transition, batch: Batch) -> Transition:
    heat = batch.row["temperature"].to(dist.mean.dtype)
    return dist.tempered(torch.where(heat == 0, 1.0, heat)[:, None].expand(-1, batch.steps))


class ConditionCritic(nn.Module):
    """V(condition); the same before every step of a chain. A constant where there is no condition."""

    def __init__(self, conditions: Conditions, column: str | None, dims: int, rng: torch.Generator, width: int = 64):
        super().__init__()
        self.column = column
        with seeded(rng):
            self.given = Embedding(conditions, width)
            self.hidden, self.leave = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, latent: Tensor, clock: Tensor, condition: Tensor | None) -> Tensor:
        """(N,) of latents (N, D), numbers of the next steps (N,) and conditions (N, ...)."""
        x = self.given(condition)
        x = x if isinstance(x, Tensor) else latent.new_zeros(len(latent), self.hidden.in_features)
        return self.leave(torch.tanh(self.hidden(torch.tanh(x))))[:, 0]

    def value(self, batch: Batch) -> Tensor:
        """(B, T + 1)."""
        return _values(self, batch, self.column)


class LatentCritic(nn.Module):
    """V(latent, step of the chain, condition): a value that follows the chain, for credit within it."""

    def __init__(self, conditions: Conditions, column: str | None, dims: int, rng: torch.Generator, width: int = 64):
        super().__init__()
        self.column, self.width = column, width
        with seeded(rng):
            self.given, self.enter = Embedding(conditions, width), nn.Linear(dims, width)
            self.hidden, self.leave = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, latent: Tensor, clock: Tensor, condition: Tensor | None) -> Tensor:
        """(N,), as `ConditionCritic`."""
        x = self.enter(latent) + waves(clock.to(latent.dtype), self.width, 100.0) + self.given(condition)
        return self.leave(torch.tanh(self.hidden(torch.tanh(x))))[:, 0]

    def value(self, batch: Batch) -> Tensor:
        """(B, T + 1)."""
        return _values(self, batch, self.column)


def _values(critic: nn.Module, batch: Batch, column: str | None) -> Tensor:
    """Values of every state of the rows, in one call: before each step, and after the last one (also at padding)."""
    size, steps = len(batch), batch.steps

    def states(name: str) -> Tensor:
        last = batch.row[name][:, None]
        if name not in batch.step:
            return last.expand(size, steps + 1, *last.shape[2:]).flatten(0, 1)
        before = batch.step[name]
        valid = batch.valid.view(size, steps, *(1,) * (before.dim() - 2))
        return torch.cat([torch.where(valid, before, last), last], 1).flatten(0, 1)

    given = None if column is None else states(column)
    return critic(states(LATENT), states(CLOCK), given).view(size, steps + 1)
