"""Critics of control policies: state values, and ensembles of action values.

A critic has a network of its own. It has a copy of its policy's statistics of observations, which `UpdateNormaliser`
keeps equal, and reads the stored memory of a recurrent policy beside the observation: the memory at a step is data, so
no gradient runs through time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policyopt.compose import CompositionError
from policyopt.policies.bodies import ACTIVATIONS, CNN, GAIN, MLP, Image, orthogonal
from policyopt.policies.head import Head
from policyopt.policies.normaliser import Normaliser
from policyopt.policies.perception import MEMORY, Eyes, cleared
from policyopt.policies.spaces import Actions, Box, Discrete
from policyopt.types import Batch

_BEHIND = MLP((256,), "relu")  # what joins an image's features with actions or memory


class Ensemble(nn.Module):
    """E fully connected networks side by side: (E | 1, N, inputs) -> (E, N, outputs), one product per layer."""

    def __init__(self, spec: MLP, inputs: int, outputs: int, heads: int, rng: torch.Generator):
        super().__init__()
        widths = (inputs, *spec.hidden, outputs)
        weights, biases = [], []
        for number, (a, b) in enumerate(itertools.pairwise(widths)):
            gain = GAIN if number + 2 < len(widths) else 1.0
            made = [orthogonal(nn.Linear(a, b), gain, rng).weight.detach().T for _ in range(heads)]
            weights.append(nn.Parameter(torch.stack(made)))
            biases.append(nn.Parameter(torch.zeros(heads, 1, b)))
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.scales = nn.ParameterList(torch.ones(heads, 1, w) for w in spec.hidden if spec.layer_norm)
        self.shifts = nn.ParameterList(torch.zeros(heads, 1, w) for w in spec.hidden if spec.layer_norm)
        self.heads, self.activation = heads, spec.activation

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(self.heads, -1, -1)
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if number < last:
                if len(self.scales):
                    x = F.layer_norm(x, x.shape[-1:]) * self.scales[number] + self.shifts[number]
                x = ACTIVATIONS[self.activation](x)
        return x


class Estimator(nn.Module):
    """E networks (*lead, observation) x (*lead, extra) -> (E, *lead, outputs). Every head has its own convolutions."""

    def __init__(
        self, spec: MLP | CNN, shape: tuple[int, ...], extra: int, outputs: int, heads: int, rng: torch.Generator
    ):
        super().__init__()
        flat = math.prod(shape)
        if isinstance(spec, CNN):
            self.images = nn.ModuleList(Image(spec, shape, rng) for _ in range(heads))
            flat, spec = spec.hidden, (_BEHIND if extra else MLP(()))
        else:
            self.images = None
        self.network = Ensemble(spec, flat + extra, outputs, heads, rng)

    def forward(self, x: Tensor, extra: Tensor | None) -> Tensor:
        lead = x.shape[:-1] if extra is None else torch.broadcast_shapes(x.shape[:-1], extra.shape[:-1])
        features = x[None] if self.images is None else torch.stack([image(x) for image in self.images])
        extended = (len(features), *(1,) * (len(lead) - x.dim() + 1), *features.shape[1:])
        features = features.reshape(extended).expand(-1, *lead, -1)
        if extra is not None:
            features = torch.cat([features, extra.expand(len(features), *lead, extra.shape[-1])], -1)
        out = self.network(features.reshape(len(features), -1, features.shape[-1]))
        return out.reshape(len(out), *lead, out.shape[-1])


class _Critic(nn.Module):
    """What both kinds share: own eyes, and the memory that the policy had."""

    def __init__(self, actor: Any):
        super().__init__()
        self.eyes, self.memory = Eyes(actor.spec.observations, normalise=actor.spec.normalise), int(actor.memory)

    @property
    def normaliser(self) -> Normaliser | None:
        return self.eyes.normaliser

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class ValueCritic(_Critic):
    """V(observation, memory); see `compose.ValueModel`."""

    def __init__(self, actor: Any, spec: MLP | CNN, rng: torch.Generator):
        super().__init__(actor)
        self.estimator = Estimator(spec, actor.spec.observations.inputs, self.memory, 1, 1, rng)

    def value(self, batch: Batch) -> Tensor:
        """(B, T + 1): before each step, and after the row's last one; behind that, the latter again."""
        return self._values(batch, _path)

    def before(self, batch: Batch) -> Tensor:
        """(B, T): the first T of them, for losses."""
        return self._values(batch, _steps)

    def _values(self, batch: Batch, states: Callable[[Batch, str], Tensor]) -> Tensor:
        x = self.eyes(states(batch, "_obs"), self.dtype)
        extra = states(batch, MEMORY).to(self.dtype) if self.memory else None
        return self.estimator(x, extra)[0, ..., 0]


def _steps(batch: Batch, name: str) -> Tensor:
    """(B, T, ...) the state before each step; behind the last one, the state after it."""
    final, column = batch.row[name][:, None], batch.step[name]
    valid = batch.valid.view(len(batch), batch.steps, *(1,) * (column.dim() - 2))
    return torch.where(valid, column, final)


def _path(batch: Batch, name: str) -> Tensor:
    """(B, T + 1, ...) the same, with the state after the last step at the end."""
    return torch.cat([_steps(batch, name), batch.row[name][:, None]], 1)


class QCritic(_Critic):
    """E values Q(observation, memory, action); see `compose.ActionValueModel`.

    Boxes: of the action in [-1, 1] that a raw step stands for (`Head.bounded`). Discrete: an output per choice.
    """

    low: Tensor
    high: Tensor

    def __init__(self, actor: Any, spec: MLP | CNN, heads: int, rng: torch.Generator):
        super().__init__(actor)
        self.head: Head = actor.head
        self.actions: Actions = actor.spec.actions
        self.continuous = isinstance(self.actions, Box)
        extra = self.actions.size if isinstance(self.actions, Box) else 0
        outputs = self.actions.choices if isinstance(self.actions, Discrete) else 1
        self.estimator = Estimator(spec, actor.spec.observations.inputs, self.memory + extra, outputs, heads, rng)
        self.register_buffer("low", actor.low.clone(), persistent=False)
        self.register_buffer("high", actor.high.clone(), persistent=False)

    def q(self, batch: Batch, steps: Tensor | None = None, *, following: bool = False) -> Tensor:
        """(E, B, T): values of raw steps (B, T, ...), by default those taken, at the states before each step or, with
        `following`, after it. Steps may have more axes in front, (K, B, T, ...) -> (E, K, B, T). Gradient to the steps
        of boxes too."""
        chosen = batch.step["_action"] if steps is None else steps
        if not self.continuous:
            values = self.q_all(batch, following=following)
            values = values[(slice(None), *(None,) * (chosen.dim() - 2))]
            index = chosen[None, ..., None].expand(len(values), *chosen.shape, 1)
            return values.expand(*index.shape[:-1], values.shape[-1]).gather(-1, index)[..., 0]
        action = self.head.bounded(chosen, self.low, self.high).to(self.dtype)
        return self._estimate(batch, cleared_steps(batch.valid, action), following=following)[..., 0]

    def q_all(self, batch: Batch, *, following: bool = False) -> Tensor:
        """(E, B, T, A)."""
        if self.continuous:
            raise CompositionError("values of every choice need discrete actions; a box has infinitely many")
        return self._estimate(batch, None, following=following)

    def _estimate(self, batch: Batch, action: Tensor | None, *, following: bool) -> Tensor:
        x = self.eyes(self._state(batch, "_obs", following=following), self.dtype)
        extra = action
        if self.memory:
            memory = self._state(batch, MEMORY, following=following).to(self.dtype)
            extra = memory if action is None else torch.cat([memory.expand(*action.shape[:-1], -1), action], -1)
        return self.estimator(x, extra)

    def _state(self, batch: Batch, name: str, *, following: bool) -> Tensor:
        return cleared(batch.valid, batch.following(name) if following else batch.step[name])


def cleared_steps(valid: Tensor, action: Tensor) -> Tensor:
    """(..., B, T, D) with zeros at padding."""
    return torch.where(valid[..., None], action, torch.zeros((), dtype=action.dtype))
