"""Weights of proximity terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Part
from policyopt.types import Batch


@dataclass(frozen=True)
class InverseAnnealed(Part):
    """A term weight: scale / t_k with the step size t_k = 1 - k / K of round k of K, which falls to 0 without reaching
    it (mirror descent, arXiv 2005.09814, section 5): the pull to the old policy grows."""

    scale: float = 1.0

    formula = "scale / (1 - k / K), round k of K"

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise CompositionError(f"the scale of a weight must be above 0, not {self.scale}")

    def __call__(self, seen: Any, batch: Batch) -> Tensor:
        done = seen.ctx.stage_step / seen.ctx.stage_total
        return torch.tensor(self.scale / (1 - done))
