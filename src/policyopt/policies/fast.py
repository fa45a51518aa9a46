"""Acting in numpy: for a handful of environments a small network costs less than one call into torch.

    fast = policy.fast()                         # a snapshot: take a new one after every update
    noise = fast.noise(uniforms)                 # torch (..., width) in [0, 1) -> numpy, for a whole rollout at once
    out = fast(observations)                     # numpy (B, *S) -> (B, outputs)
    step = fast.pick(out, noise[t], level)       # raw steps; noise None: the mode
    action = fast.emit(step)                     # what the world receives
    ...
    dist = policy.distribution_of(torch.as_tensor(outs), levels)   # once, for the densities of the whole rollout

equals `policy.next(batch).sample(uniforms)` within rounding (1e-6 in float32), at temperature 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.policies.bodies import Flat
from policyopt.policies.normaliser import CLIP
from policyopt.policies.spaces import Box

_ACTIVATIONS = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x))}


_THREADED = 2**17  # products from which numpy's BLAS starts threads of its own, which costs more than it gains


def _linear(x: Any, weight: Any, bias: Any) -> Any:
    if x.size * weight.shape[1] > _THREADED:
        return torch.addmm(torch.from_numpy(bias), torch.from_numpy(x), torch.from_numpy(weight)).numpy()
    x = x @ weight
    x += bias
    return x


def _array(x: Tensor) -> Any:
    return x.detach().cpu().numpy().copy()


class Fast:
    """A policy's weights as numpy arrays, as they were when it was made."""

    def __init__(self, actor: Any):
        spec = actor.spec
        self.head, self.actions, self.observations = actor.head, spec.actions, spec.observations
        self._layers = [(_array(layer.weight.T), _array(layer.bias)) for layer in (*actor.body.layers, actor.out)]
        self._norms = [(_array(norm.weight), _array(norm.bias), norm.eps) for norm in actor.body.norms]
        self._activation = _ACTIVATIONS[actor.body.activation]
        self.dtype = self._layers[0][0].dtype
        self._low, self._high = _array(actor.low), _array(actor.high)
        self._log_std = None if actor.log_std is None else _array(actor.log_std)
        eyes = actor.normaliser
        self._scaling = None
        if eyes is not None:
            self._scaling = (_array(eyes.mean).astype(self.dtype), _array(eyes.scale).astype(self.dtype))

    def __call__(self, observations: Any) -> Any:
        """(B, *S) -> network outputs (B, outputs)."""
        x = self._read(np.asarray(observations))
        last = len(self._layers) - 1
        for number, (weight, bias) in enumerate(self._layers):
            x = _linear(x, weight, bias)
            if number < last:
                if self._norms:
                    scale, shift, epsilon = self._norms[number]
                    x = x - x.mean(-1, keepdims=True)
                    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * scale + shift
                x = self._activation(x)
        return x

    def _read(self, observations: Any) -> Any:
        if self.observations.choices:
            return np.eye(self.observations.choices, dtype=self.dtype)[observations]
        x = observations.reshape(len(observations), -1).astype(self.dtype)
        if self.observations.image:
            return x / self.dtype.type(255)
        if self._scaling is None:
            return x
        mean, scale = self._scaling
        return np.clip((x - mean) * scale, -CLIP, CLIP)

    def noise(self, uniform: Tensor) -> Any:
        """What `pick` reads, from the uniform numbers (..., width) of any number of steps."""
        return self.head.noise(uniform).cpu().numpy()

    def pick(self, out: Any, noise: Any = None, level: Any = 0.0) -> Any:
        """Raw steps (B, ...) from outputs, numbers of `noise` (B, width) and levels of exploration (B,) or ()."""
        level = np.broadcast_to(np.asarray(level, self.dtype), out.shape[:-1])
        return self.head.pick(out, self._log_std, level, noise, self.actions)

    def emit(self, step: Any) -> Any:
        """As `Actor.emit`."""
        action = self.head.emit(np, step, self._low, self._high)
        return action.reshape(len(step), *self.actions.shape) if isinstance(self.actions, Box) else action


def fast_path(actor: Any) -> Fast | None:
    """None for bodies that numpy would not make faster: convolutions and memory."""
    small = isinstance(actor.body, Flat) and math.prod(actor.spec.observations.shape) < 4096
    return Fast(actor) if small and actor.out.weight.dtype in (torch.float32, torch.float64) else None
