"""A penalty on the change of the policy that begins at a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Part, Seen
from policyopt.ops.masked import select
from policyopt.types import Batch

Estimator = Literal["plain", "k3"]


def _check(estimator: str) -> None:
    if estimator not in get_args(Estimator):
        raise CompositionError(f"estimator is one of {', '.join(get_args(Estimator))}, not {estimator!r}")


@dataclass(frozen=True)
class DriftFromOld(Loss):
    """An estimate of KL(pi_old || pi) from steps that the old policy took, differentiated directly, which is right for
    them: log pi_old - log pi, or with "k3" plus r - 1 (less variance)."""

    estimator: Estimator = "plain"

    formula = "log pi_old - log pi; k3: that plus pi / pi_old - 1"
    roles = ("old",)

    def __post_init__(self) -> None:
        _check(self.estimator)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        behind = select(batch.trained, seen["old"].logp - seen["policy"].logp)
        return behind if self.estimator == "plain" else behind + torch.expm1(-behind)


@dataclass(frozen=True)
class SquaredHinge(Part):
    """A term weight: scale (K - limit) while the mean K of `DriftFromOld` over trained steps is above the limit, else
    0. Times that mean the gradient is that of scale / 2 (K - limit)^2, the value is not (DRPO, arXiv 2510.04474)."""

    scale: float = 1000.0
    limit: float = 1e-4
    estimator: Estimator = "plain"

    formula = "scale max(mean (log pi_old - log pi) - limit, 0)"
    roles = ("old",)

    def __post_init__(self) -> None:
        _check(self.estimator)
        if self.scale <= 0 or self.limit < 0:
            raise CompositionError(f"need scale > 0 and limit >= 0, got {self.scale} and {self.limit}")

    def __call__(self, seen: Any, batch: Batch) -> Tensor:
        drift, total = DriftFromOld(self.estimator)(seen, batch).detach(), seen.ctx.total
        mean = total(drift.sum()) / total(batch.trained.sum().to(drift)).clamp(min=1)
        return self.scale * (mean - self.limit).clamp(min=0)
