"""A pull of a Gaussian step towards the standard normal distribution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.masked import placed
from policyopt.types import Batch


@dataclass(frozen=True)
class NearStandardNormal(Loss):
    """FIND's regulariser (arXiv 2407.19453, eq. 10): a quadratic pull of the mean to 0 and of the std to 1 on trained
    steps. It is no divergence, but has the same minimum. The role "policy" needs `full=True`."""

    needs = "mean and std of a Gaussian step"
    formula = "mean_d (m_d^2 + (s_d - 1)^2)"

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        dist = seen["policy"].dist
        mean, std = getattr(dist, "mean", None), getattr(dist, "std", None)
        if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
            raise CompositionError(
                "NearStandardNormal needs the policy's Gaussian; declare roles={'policy': Role(grad=True, full=True)} "
                "and use a policy with Gaussian steps"
            )
        trained = batch.trained
        return placed(trained, (mean[trained] ** 2 + (std[trained] - 1) ** 2).mean(-1))
