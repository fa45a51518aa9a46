"""Averages over groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Averaging
from policyopt.distributions import widest
from policyopt.ops.groups import group_count
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


@dataclass(frozen=True)
class EvenGroups(Averaging):
    """Mean over groups of the mean over a group's rows of the sum over a row's counted steps: groups of many rows weigh
    as much as groups of few. Rows and groups without a counted step do not count."""

    formula = "mean_g mean_{b in g} sum_t m_bt x_bt"

    def __call__(self, mask: Tensor, batch: Batch, total: Total) -> Tensor:
        weights = mask.to(widest(mask.device))
        counted = mask.any(1)
        rows = group_count(batch.row["group"], counted).clamp(min=1).to(weights)
        groups = torch.tensor(len(batch.row["group"][counted].unique()), device=mask.device).to(weights)
        return weights / rows[:, None] / total(groups).clamp(min=1)
