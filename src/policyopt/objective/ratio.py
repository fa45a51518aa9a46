"""A classifier of whose step it was: its log-odds are the logarithm of a ratio of occupancies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from policyopt.compose import Loss, Seen, named_by
from policyopt.ops.masked import select
from policyopt.types import Batch


def steps_of_first(seen: Seen, batch: Batch) -> Tensor:
    """Own steps of rows of author 0."""
    return batch.own & (batch.row["author"] == 0)[:, None]


def steps_of_others(seen: Seen, batch: Batch) -> Tensor:
    return batch.own & (batch.row["author"] != 0)[:, None]


@dataclass(frozen=True)
class Authorship(Loss):
    """Logistic regression of who took a step: author 0 (the policy) or another (the reference). With one mean for
    each side its minimum is d = log mu_0(s, a) - log mu_1(s, a). d is the one head of an action-value model."""

    model: str = "discriminator"

    formula = "softplus(-d_bt) for steps of author 0, softplus(d_bt) for steps of others"

    reads = ("author",)
    needs = "action values"
    critics = named_by("model")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        odds = select(batch.own, seen.q(self.model)[0])
        ours = (batch.row["author"] == 0)[:, None]
        return softplus(torch.where(ours, -odds, odds))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"odds": seen.q(self.model)[0]}
