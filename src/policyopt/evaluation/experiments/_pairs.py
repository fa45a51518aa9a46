"""Two tasks on shared weights, whose examples come in pairs of different similarity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policyopt.evaluation.experiments._common import choice_scores
from policyopt.types import Batch, Categorical, Scores
from policyopt.worlds.sequences import SequenceWorld


@dataclass(frozen=True)
class PairedPoints(SequenceWorld):
    """Tasks 2 p and 2 p + 1 are the members of pair p."""

    similarity: Tensor | None = None

    def task_pairs(self) -> tuple[Tensor, Tensor]:
        assert self.similarity is not None
        return torch.arange(self.size).view(-1, 2), self.similarity


class TwoHeads(nn.Module):
    """logits = W_head (features @ shared): even tasks ask the first head, odd ones the second."""

    kind = "tabular"
    features: Tensor

    def __init__(self, features: Tensor, width: int, choices: int, rng: torch.Generator):
        super().__init__()
        self.register_buffer("features", features)
        self.shared = nn.Parameter(torch.randn(features.shape[1], width, generator=rng) / features.shape[1] ** 0.5)
        self.heads = nn.Parameter(torch.randn(2, width, choices, generator=rng) / width**0.5)

    def logits(self, features: Tensor, head: Tensor) -> Tensor:
        return torch.einsum("bw,bwc->bc", features @ self.shared, self.heads[head])

    def next(self, batch: Batch) -> Categorical:
        task = batch.row["task"]
        return Categorical.of(self.logits(self.features[task], task % 2))

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        task = batch.row["task"]
        logits = self.logits(self.features[task], task % 2)[:, None].expand(-1, batch.steps, -1)
        return choice_scores(logits, batch, full=full)
