"""Generation through any Hugging Face causal model's own forward and cache, with our own sampling loop."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from policyopt.engines.contexts import distinct_contexts
from policyopt.engines.native import EngineError
from policyopt.engines.plain import generate
from policyopt.engines.sampling import Stream, sample
from policyopt.policies.blended import Blended
from policyopt.policies.language import Language
from policyopt.types import Batch
from policyopt.worlds.tokens import TokenWorld


class TransformersEngine:
    """Equals `engines.plain.generate` for every architecture that keeps a cache of keys and values."""

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
        if isinstance(policy, Blended):
            return generate(policy, world, batch, keys, temperature, version, steps)
        if not isinstance(policy, Language) or not isinstance(world, TokenWorld):
            raise EngineError(
                "the transformers engine generates single answers of language models, not "
                f"{type(policy).__name__} in {type(world).__name__}; use engine=plain"
            )
        with torch.no_grad():
            return sample(partial(_CachedStream, policy), world, batch, keys, temperature, version, steps)


class _CachedStream(Stream):
    def __init__(self, policy: Language, batch: Batch):
        self._policy, self._begun = policy, distinct_contexts(batch)
        self._cache: Any = None
        width, length = self._begun.tokens.shape[1], self._begun.length
        # Padded on the left: windows of attention count columns, so a row's tokens must stand side by side.
        column = torch.arange(width, device=length.device)
        self._left = (column + length[:, None]) % width
        self._mask = (column >= (width - length)[:, None]).long()
        self._position = length

    def enter(self, rows: Tensor) -> Tensor:
        position = (self._mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(self._begun.tokens.gather(1, self._left), position)
        of_row = self._begun.of_row[rows]
        self.keep(of_row)
        return logits[of_row]

    def following(self, token: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        logits = self._forward(token[:, None], self._position[:, None])
        self._position = self._position + 1
        return logits

    def _forward(self, token: Tensor, position: Tensor) -> Tensor:
        out = self._policy.backbone(
            input_ids=token,
            attention_mask=self._mask,
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        )
        if "past_key_values" not in out:
            raise EngineError(
                f"{type(self._policy.causal).__name__} keeps no cache of keys and values; use engine=plain"
            )
        self._cache = out.past_key_values
        return self._policy.head(out.last_hidden_state[:, -1])

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]
