"""Cases of advantages of groups on rows of every kind of policy: a part, and what the loops make of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import loops
import loops_groups as by_hand
from policyopt.credit.beta import BetaNormalised
from policyopt.credit.given import OfOwnRows, OnOwnScale, WhitenedAdvantage
from policyopt.credit.groups import LeaveOneOut
from policyopt.credit.risk import RiskAdvantage
from policyopt.types import Batch


def of_rows(formula: Callable[..., list[float]]) -> Callable[..., dict[str, Tensor]]:
    """formula(part, rewards, groups, scored) -> a number for every row."""

    def reference(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
        count = range(len(rows))
        reward = [sum(float(rows.step["reward"][b, t]) for t in range(rows.steps) if rows.own[b, t]) for b in count]
        found = formula(part, reward, rows.row["group"].tolist(), rows.row["scored"].tolist())
        return {"advantage": torch.where(rows.own, torch.tensor(found)[:, None], 0.0)}

    return reference


def whitened(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    """Over the own steps of scored rows."""
    places = [(b, t) for b, t in rows.own.nonzero().tolist() if rows.row["scored"][b]]
    values = [float(rows.step["advantage"][b, t]) for b, t in places]
    mean, deviation = by_hand.mean(values), by_hand.deviation(values)
    found = torch.zeros_like(rows.step["advantage"])
    for (b, t), value in zip(places, values, strict=True):
        found[b, t] = (value - mean) / (deviation + part.epsilon)
    return {"advantage": found}


CREDIT = {
    "beta_normalised": (
        BetaNormalised(low=-9.0, high=9.0),
        of_rows(lambda part, *rows: by_hand.beta_normalised(*rows, low=-9.0, high=9.0)),
    ),
    "on_own_scale": (
        OnOwnScale(),
        of_rows(lambda part, reward, group, scored: by_hand.on_own_scale(reward, group, scored, [0] * 8)),
    ),
    "of_own_rows": (OfOwnRows(LeaveOneOut()), of_rows(lambda part, *rows: loops.leave_one_out(*rows))),
    "risk": (RiskAdvantage(2), of_rows(lambda part, *rows: by_hand.risk(*rows, size=2))),
    "whitened": (WhitenedAdvantage(), whitened),
}
