"""A row under its own context against the same row under another one: a preference without a second row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.objective.surrogates import exact
from policyopt.ops.masked import select
from policyopt.ops.sequences import step_weights
from policyopt.types import Batch


@dataclass(frozen=True)
class ContextPreference(Loss):
    """DPO between contexts (OPA-DPO's and mDPO's image term): what a row says of itself under its own context should be
    more than under another one, whose reference is asked under the other one too. Equal contexts: log 2, no gradient.

    by: column of weights, of steps or rows; none if empty. anchor: the reference; other, other_anchor: the roles of the
    policy (with gradient) and of the reference under the other context.
    """

    beta: float = 0.1
    by: str = ""
    anchor: str = "reference"
    other: str = "blind"
    other_anchor: str = "blind_reference"

    formula = "-log sigma(beta sum_t w_t (log pi - log pi_ref - (log pi~ - log pi~_ref))), ~: the other context"
    roles = named_by("anchor", "other", "other_anchor")

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise CompositionError(f"beta must be above 0, not {self.beta}")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.by,) if self.by else ()

    def margin(self, seen: Seen, batch: Batch) -> Tensor:
        change, apart = (
            exact(seen[role], role) - exact(seen[anchor], anchor)
            for role, anchor in (("policy", self.anchor), (self.other, self.other_anchor))
        )
        gain = select(batch.trained, change - apart)
        if self.by:
            gain = gain * step_weights(batch, self.by)
        return self.beta * gain.sum(1)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return softplus(-self.margin(seen, batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        margin = self.margin(seen, batch)
        return {"margin": margin, "accuracy": 0.5 * (1 + torch.sign(margin))}
