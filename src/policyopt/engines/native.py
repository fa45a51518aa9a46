"""The native engine: a plain decoder over the policy's own parameters. Nothing is copied, so nothing can be stale."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from policyopt.engines.contexts import distinct_contexts
from policyopt.engines.decoder import Decoder, why_not
from policyopt.engines.sampling import Stream, sample
from policyopt.policies.language import Language
from policyopt.types import Batch
from policyopt.worlds.tokens import TokenWorld


class EngineError(ValueError):
    """An engine was asked for something that it can not do exactly."""


def native_obstacle(policy: Any, world: Any) -> str | None:
    """Why the native engine can not generate for this policy and world, or None if it can."""
    if not isinstance(policy, Language):
        return f"it generates text, and the policy is {type(policy).__name__}"
    if not isinstance(world, TokenWorld):
        return f"it generates single answers, and the world is {type(world).__name__}"
    return why_not(policy.causal)


class NativeEngine:
    """Equals `engines.plain.generate`. There is no top-k or top-p: the trainer could not know which tokens were cut
    off, so its log-probabilities would not be the sampler's."""

    def __call__(
        self,
        policy: Any,
        world: Any,
        batch: Batch,
        keys: Tensor,
        temperature: float,
        version: int,
        steps: int | None = None,
    ) -> Batch:
        obstacle = native_obstacle(policy, world)
        if obstacle is not None:
            raise EngineError(f"the native engine can not generate here: {obstacle}; use engine=transformers or plain")
        with torch.no_grad():
            return sample(partial(_NativeStream, policy, world.limit), world, batch, keys, temperature, version, steps)


class _NativeStream(Stream):
    """Every distinct context is read once; its cache is then copied to the rows that continue it."""

    def __init__(self, policy: Language, limit: int, batch: Batch):
        begun = distinct_contexts(batch)
        width = begun.tokens.shape[1]
        self._policy, self._begun = policy, begun
        self._decoder = Decoder(policy.backbone, width + limit)
        self._position = begun.length[begun.of_row]
        # New tokens are written behind the widest context, so shorter ones leave a gap. Without a gap there is
        # nothing to mask, and kernels without a mask are faster.
        self._real: Tensor | None = None
        if bool((begun.length < width).any()):
            column = torch.arange(width + limit, device=begun.length.device)
            self._real = (column < self._position[:, None]) | (column >= width)

    def first(self) -> Tensor:
        begun = self._begun
        states = self._decoder.prefill(begun.tokens)
        last = states[torch.arange(len(states), device=states.device), begun.length - 1]
        self._decoder.select(begun.of_row)
        return self._policy.head(last)[begun.of_row]

    def following(self, token: Tensor) -> Tensor:
        states = self._decoder.step(token, self._position, self._real)
        self._position = self._position + 1
        return self._policy.head(states)

    def keep(self, rows: Tensor) -> None:
        self._decoder.select(rows)
        self._position = self._position[rows]
        self._real = None if self._real is None else self._real[rows]
