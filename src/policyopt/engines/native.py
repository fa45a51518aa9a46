"""The native engine: a decoder over the policy's own parameters. Its joined weights are made anew at every call, so
they can not be stale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from policyopt.engines.architecture import read, why_not
from policyopt.engines.contexts import distinct_contexts
from policyopt.engines.decoder import Decoder
from policyopt.engines.plain import generate
from policyopt.engines.sampling import Stream, sample
from policyopt.policies.blended import Blended
from policyopt.policies.language import Language
from policyopt.types import Batch
from policyopt.worlds.tokens import TokenWorld


class EngineError(ValueError):
    """An engine was asked for something that it can not do exactly."""


def text_obstacle(policy: Any, world: Any) -> str | None:
    """Why an engine of single answers in text can not generate for this policy and world, or None if it may."""
    if not isinstance(policy, Language):
        return f"it generates text, and the policy is {type(policy).__name__}"
    if not isinstance(world, TokenWorld):
        return f"it generates single answers, and the world is {type(world).__name__}"
    return None


def native_obstacle(policy: Any, world: Any) -> str | None:
    """Why the native engine can not generate for this policy and world, or None if it can."""
    return text_obstacle(policy, world) or why_not(policy.causal)


@dataclass(frozen=True)
class Decoding:
    """How the native engine decodes. Tokens depend on `weights` alone.

    slots: rows decoded side by side (None: all); more wait until some have ended. shared: rows of one context share its
    keys and values. dropped: rows that ended leave at once. compiled: on a processor, with compiled kernels. weights:
    precision of the linear layers, None for the policy's own.
    """

    slots: int | None = None
    shared: bool = True
    dropped: bool = True
    compiled: bool = True
    weights: torch.dtype | None = None


class NativeEngine:
    """Equals `engines.plain.generate`."""

    def __init__(self, decoding: Decoding | None = None):
        self.decoding = decoding or Decoding()

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
        if isinstance(policy, Blended):  # what it mixes is known to its `next` alone
            return generate(policy, world, batch, keys, temperature, version, steps)
        obstacle = native_obstacle(policy, world)
        if obstacle is not None:
            raise EngineError(f"the native engine can not generate here: {obstacle}; use engine=transformers or plain")
        with torch.no_grad():
            start = partial(_NativeStream, policy, world.limit, self.decoding)
            return sample(start, world, batch, keys, temperature, version, steps, self.decoding.slots)


class _NativeStream(Stream):
    """Every distinct context is read once, when the first of its rows enters."""

    def __init__(self, policy: Language, limit: int, decoding: Decoding, batch: Batch):
        self._policy, self._decoding = policy, decoding
        self._begun = distinct_contexts(batch)
        longest = self._begun.tokens.shape[1] + limit
        made = read(policy.backbone, longest, decoding.weights, compiled=decoding.compiled)
        self.kernels = made.kernels
        self._decoder = Decoder(made, self._begun.tokens.device)

    def enter(self, rows: Tensor) -> Tensor:
        begun = self._begun
        found, of = begun.of_row[rows].unique(return_inverse=True)
        if not self._decoding.shared:
            found, of = begun.of_row[rows], torch.arange(len(rows), device=rows.device)
        length = begun.length[found]
        tokens = begun.tokens[found, : int(length.max())]
        return self._policy.head(self._decoder.enter(tokens, length, of))[of]

    def following(self, token: Tensor) -> Tensor:
        return self._policy.head(self._decoder.step(token))

    def keep(self, rows: Tensor) -> None:
        self._decoder.cache.keep(rows)

    def crowded(self, running: int, rows: int) -> bool:
        return self._decoding.dropped or super().crowded(running, rows)
