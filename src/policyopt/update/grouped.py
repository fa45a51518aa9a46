"""Averages over groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Averaging
from policyopt.distributions import widest
from policyopt.types import Batch
from policyopt.update.averaging import Total


@dataclass(frozen=True)
class GroupMean(Averaging):
    """Mean over groups of the sum over a group's counted rows, for losses (B,) that are written for one group. Groups
    without a counted row do not count."""

    formula = "sum_b m_b x_b / number of groups"

    def __call__(self, mask: Tensor, batch: Batch, total: Total) -> Tensor:
        weights = mask.to(widest(mask.device))
        groups = torch.tensor(len(batch.row["group"][mask].unique()), device=mask.device).to(weights)
        return weights / total(groups).clamp(min=1)
