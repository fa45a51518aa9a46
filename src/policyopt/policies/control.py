"""Control policies: networks from observations to distributions over actions, and their critics.

Columns, all opaque to the parts: `_obs` (state: row (B, *S), step (B, T, *S)); `_action` (step): the raw step
(`heads`); `_exploration` (row (B,), optional): the level of exploration that a row was acted with, an epsilon or a
standard deviation, 0 without it; `_memory` (state (B, H) / (B, T, H)), only for recurrent bodies.

Memory, for whoever generates: worlds know nothing of it. `begin` adds its columns to rows that begin an episode, and
after every `world.append` the generator puts there what `advance` said before it:

    batch = policy.begin(world.start(tasks))
    step = policy.next(batch).sample(...)
    moved = policy.advance(batch, step)                      # {} without memory
    batch = carried(batch, world.append(batch, step, ...), moved, live)

A row that goes on from an earlier fragment starts with that fragment's `_memory` row column instead of `begin`'s.
Gradients run through the steps of a row and not through its stored first memory: updates on single steps
(`Batch.flat`) train a recurrent policy without them, updates on rows with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import CompositionError
from policyopt.distributions import Deterministic, Distribution
from policyopt.policies.bodies import MLP, Body, Flat, Image, Recurrent, Unrolled, encoder, orthogonal
from policyopt.policies.critics import QCritic, ValueCritic
from policyopt.policies.denoising import Denoiser
from policyopt.policies.discrete_heads import QHead
from policyopt.policies.fast import Fast, fast_path
from policyopt.policies.head import Head
from policyopt.policies.heads import head_for
from policyopt.policies.normaliser import Normaliser
from policyopt.policies.perception import MEMORY, Eyes, cleared
from policyopt.policies.perception import carried as carried
from policyopt.policies.recorded_steps import denoiser_of_steps
from policyopt.policies.spaces import Actions, Box, Discrete, Multi, Observations, actions_of, observations_of
from policyopt.types import Batch, Scores

ACTION, EXPLORATION = "_action", "_exploration"


@dataclass(frozen=True)
class ControlSpec:
    """A control policy as pure data. critic: the body of critics made from this policy; None: the policy's (a recurrent
    policy's critics have its encoder and read the stored memory). normalise: running statistics of observations
    (`Normaliser`), moved by `UpdateNormaliser` only."""

    observations: Observations
    actions: Actions
    head: Head
    body: Body = field(default_factory=MLP)
    critic: Body | None = None
    normalise: bool = False

    def __post_init__(self) -> None:
        self.head.check(self.actions)
        if isinstance(self.critic, Recurrent):
            raise CompositionError("critics have no memory of their own; give them an MLP or a CNN")
        if self.normalise and (self.observations.image or self.observations.choices):
            raise CompositionError("images and discrete observations have their scale; use normalise=False")

    @property
    def critic_body(self) -> Any:
        body = self.body if self.critic is None else self.critic
        return body.encoder if isinstance(body, Recurrent) else body


def new_actor(
    observation_space: Any,
    action_space: Any,
    *,
    head: Head | str = "auto",
    body: Body | None = None,
    critic: Body | None = None,
    normalise: bool = False,
    seed: int = 0,
) -> Actor:
    """A fresh policy for Gymnasium spaces, in torch's default floating type."""
    actions = actions_of(action_space)
    chosen = head_for(actions, head)
    spec = ControlSpec(
        observations_of(observation_space), actions, chosen, body or chosen.body, critic, normalise=normalise
    )
    return Actor(spec, torch.Generator().manual_seed(seed))


class Actor(nn.Module):
    """A `compose.Policy` over the columns `_obs` and `_action`. Hidden layers are orthogonal with gain sqrt(2), the
    output layer with the head's (0.01, for action values 1), biases 0."""

    kind = "control"
    low: Tensor
    high: Tensor

    def __init__(self, spec: ControlSpec, rng: torch.Generator):
        super().__init__()
        self.spec, self.head = spec, spec.head
        actions = spec.actions
        self.eyes = Eyes(spec.observations, normalise=spec.normalise)
        with torch.random.fork_rng(devices=[]):  # torch's own initialisation, replaced at once, is not to be noticed
            self.body = _body(spec, rng)
            self.out = orthogonal(nn.Linear(self.body.features, self.head.outputs(actions)), self.head.gain, rng)
        free = self.head.free(actions)
        initial = getattr(self.head, "initial_log_std", 0.0)
        self.log_std = nn.Parameter(torch.full((free,), float(initial))) if free else None
        low, high = _bounds(actions)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    @property
    def memory(self) -> int:
        """The size of the memory; 0 without one."""
        return self.body.features if isinstance(self.body, Unrolled) else 0

    @property
    def normaliser(self) -> Normaliser | None:
        return self.eyes.normaliser

    def observe(self, batch: Batch) -> None:
        """Move the statistics of observations by the batch's own steps. For `UpdateNormaliser`, between rounds."""
        self.eyes.learn(batch)

    # -- compose.Policy ------------------------------------------------------------------------------------
    def next(self, batch: Batch) -> Distribution:
        """Distributions (B,) of the step in every row's state, untempered."""
        out = self.out(self._features(batch.row["_obs"][:, None], batch.row.get(MEMORY))[:, 0])
        return self.distribution_of(out, batch.row.get(EXPLORATION))

    def at(self, batch: Batch, *, following: bool = False) -> Distribution:
        """Distributions (B, T) at the state before each step, or at the state that follows it, under the rows'
        temperature (0 counts as 1) and exploration. Memory is run again from the stored one of a row's first step."""
        features = self._states(batch, following=following)
        level = batch.row.get(EXPLORATION)
        dist = self.distribution_of(self.out(features), None if level is None else level[:, None])
        if batch.heat not in (0.0, 1.0):
            heat = batch.row["temperature"].to(self.out.weight.dtype)
            dist = dist.tempered(torch.where(heat == 0, 1.0, heat)[:, None].expand(-1, batch.steps))
        return dist

    def _states(self, batch: Batch, *, following: bool) -> Tensor:
        """Features (B, T, F) before each step, or after it."""
        stored = batch.step.get(MEMORY)
        memory = stored[:, 0] if stored is not None and batch.steps else None
        valid, seen = batch.valid, batch.step["_obs"]
        if following and self.memory:
            # The unit has to read the first observation to remember it at the second.
            path = torch.cat([cleared(valid, seen)[:, :1], cleared(valid, batch.following("_obs"))], 1)
            return self._features(path, memory)[:, 1:]
        return self._features(cleared(valid, batch.following("_obs") if following else seen), memory)

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        """Log-probabilities and entropies (B, T) of the raw steps that were taken. Not exact: a deterministic policy
        without noise (nan, and no entropy) and a policy of action values (no gradient)."""
        if context is not None:
            raise CompositionError(f"control policies see one context, the observations; there is no {context!r}")
        dist = self.at(batch)
        own, steps = batch.own, self.taken(batch)
        # What stands at padding may be outside a density's support, where its gradient is nan.
        steps = torch.where(
            own.view(*own.shape, *(1,) * (steps.dim() - 2)), steps, dist.mode().detach().to(steps.dtype)
        )
        pointed = isinstance(dist, Deterministic) and not dist.exact
        entropy = None if pointed else dist.entropy()
        return Scores(
            dist.log_prob(steps), entropy, dist if full else None, exact=self.head.differentiable and not pointed
        )

    def taken(self, batch: Batch) -> Tensor:
        """(B, T, ...) the raw steps."""
        return batch.step[ACTION]

    def distribution_of(self, out: Tensor, exploration: Tensor | None = None) -> Distribution:
        """From network outputs (*lead, outputs), as `fast` gives them, and levels of exploration (*lead)."""
        level = torch.zeros((), dtype=out.dtype) if exploration is None else exploration.to(out.dtype)
        return self.head.distribution(out, self.log_std, level.to(out.device).expand(out.shape[:-1]), self.spec.actions)

    # -- actions -------------------------------------------------------------------------------------------
    def emit(self, step: Tensor) -> Tensor:
        """Raw steps (*lead, ...) as the world receives them (*lead, *action shape), within its bounds."""
        action = self.head.emit(torch, step, self.low, self.high)
        actions = self.spec.actions
        return action.reshape(*step.shape[:-1], *actions.shape) if isinstance(actions, Box) else action

    def receive(self, action: Tensor) -> Tensor:
        """Raw steps of recorded actions: the inverse of `emit` inside the bounds. An action at a bound, where a
        squashed step is infinite, is taken as 1e-6 of half the range inside."""
        actions = self.spec.actions
        if isinstance(actions, Box):
            lead = action.shape[: action.dim() - len(actions.shape)]
            action = action.reshape(*lead, actions.size).to(self.low.dtype)
        return self.head.receive(action, self.low, self.high)

    # -- memory --------------------------------------------------------------------------------------------
    def begin(self, batch: Batch) -> Batch:
        """Rows that begin an episode, with the columns of this policy's memory."""
        if not self.memory:
            return batch
        empty = self.out.weight.new_zeros(len(batch), self.memory)
        return batch.with_rows({MEMORY: empty}).with_steps({MEMORY: empty[:, None].repeat(1, batch.steps, 1)})

    def advance(self, batch: Batch, step: Tensor) -> Mapping[str, Tensor]:
        """Row columns after the next step, (B, ...), to be computed before it is appended; empty without memory."""
        if not self.memory:
            return {}
        return {MEMORY: self._features(batch.row["_obs"][:, None], batch.row.get(MEMORY))[:, 0].detach()}

    def _features(self, observations: Tensor, memory: Tensor | None) -> Tensor:
        """(B, T, *S) -> (B, T, features)."""
        x = self.eyes(observations, self.out.weight.dtype)
        if not isinstance(self.body, Unrolled):
            return self.body(x)
        return self.body(x, x.new_zeros(len(x), self.memory) if memory is None else memory.to(x.dtype))

    # -- critics -------------------------------------------------------------------------------------------
    def make_critic(self, rng: torch.Generator) -> ValueCritic:
        """A state value with a network of its own, in this policy's floating type and with its statistics."""
        return self._like_me(lambda: ValueCritic(self, self.spec.critic_body, rng))

    def make_q(self, rng: torch.Generator, heads: int = 2) -> QCritic:
        """An ensemble of `heads` action values: of (observation, action in [-1, 1]), or with an output per choice."""
        actions = self.spec.actions
        if isinstance(actions, Multi):
            raise CompositionError(
                f"action values of several choices at once ({actions.sizes}) are not offered; use Discrete or Box "
                "actions, or a method with a state value"
            )
        return self._like_me(lambda: QCritic(self, self.spec.critic_body, heads, rng))

    def make_denoiser(self, rng: torch.Generator) -> Denoiser:
        """A diffusion model of raw steps given observations, in this policy's floating type."""
        return denoiser_of_steps(self.spec.observations, self.spec.actions, rng).to(self.out.weight)

    def _like_me(self, make: Callable[[], Any]) -> Any:
        with torch.random.fork_rng(devices=[]):
            critic = make().to(self.out.weight)
        if self.normaliser is not None:
            critic.normaliser.follow(self.normaliser)
        return critic

    def q_all(self, batch: Batch, *, following: bool = False) -> Tensor:
        """(1, B, T, A), of a policy whose outputs are action values."""
        if not isinstance(self.head, QHead):
            raise CompositionError(
                f"a policy with head {self.head.name!r} holds no action values; use head='q' or QCritic"
            )
        return self.out(self._states(batch, following=following))[None]

    def q(self, batch: Batch, steps: Tensor | None = None, *, following: bool = False) -> Tensor:
        """(1, B, T): `q_all` at the steps, by default those taken."""
        chosen = self.taken(batch) if steps is None else steps
        return self.q_all(batch, following=following).gather(-1, chosen[None, ..., None])[..., 0]

    def fast(self) -> Fast | None:
        """Acting without torch, on a snapshot of the weights; None if the body can not. See `fast.Fast`."""
        return fast_path(self)


def _body(spec: ControlSpec, rng: torch.Generator) -> Flat | Image | Unrolled:
    shape = spec.observations.inputs
    return Unrolled(spec.body, shape, rng) if isinstance(spec.body, Recurrent) else encoder(spec.body, shape, rng)


def _bounds(actions: Actions) -> tuple[Tensor, Tensor]:
    """See `heads`: bounds of a box, or numbers of the first alternatives (twice)."""
    if isinstance(actions, Box):
        return torch.tensor(actions.low), torch.tensor(actions.high)
    start = torch.tensor(actions.start if isinstance(actions, Discrete) else actions.starts)
    return start, start.clone()
