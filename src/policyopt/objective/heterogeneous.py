"""A clipped surrogate that amplifies or damps advantages by how uncertain each step was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Seen, coefficient, named_by
from policyopt.objective.surrogates import ClippedSurrogate, log_ratio
from policyopt.types import Batch


@dataclass(frozen=True)
class HeterogeneousSurrogate(ClippedSurrogate):
    """The clipped surrogate of A (1 + amount h), h the step's `entropy_score`, where the ratio of an unsure step
    (h > 0) has left the middle half of its clip range, or that of a sure one has not; of A elsewhere (HAPO, arXiv
    2509.16591 v2, eq. 10 and 11). The factor has no gradient. score: the column of h."""

    amount: float = 1.0
    score: str = "entropy_score"

    formula = (
        "-min(r A', clip(r, 1 - clip_low, 1 + clip_high) A'), A' = A (1 + amount h) where (h > 0) is not (r in "
        "(1 - clip_low / 2, 1 + clip_high / 2)), else A"
    )
    reads = named_by("advantage", "score")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.amount <= 1:
            raise CompositionError(f"amount is in 0..1, so that advantages keep their sign; got {self.amount}")

    def redistributed(self, seen: Seen, batch: Batch) -> Batch:
        ratio, score = log_ratio(seen, batch).detach().exp(), batch.step[self.score]
        low, high = coefficient(self.clip_low, batch), coefficient(self.clip_high, batch)
        middle = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
        factor = torch.where((score > 0) ^ middle, 1 + self.amount * score, 1.0)
        return batch.with_steps({self.advantage: batch.step[self.advantage] * factor})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return super().__call__(seen, self.redistributed(seen, batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return super().watch(seen, self.redistributed(seen, batch))
