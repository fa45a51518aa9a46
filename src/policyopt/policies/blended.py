"""Mixtures of two policies that sample and are not trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from policyopt.compose import CompositionError
from policyopt.types import Batch, Categorical, Gaussian, Scores


def geometric(first: Any, second: Any, share: float) -> Any:
    """first^(1 - share) second^share, normalised: mixed logits of choices, mixed precisions of normal steps."""
    if isinstance(first, Categorical) and isinstance(second, Categorical):
        return Categorical.of((1 - share) * first.logp + share * second.logp)
    if isinstance(first, Gaussian) and isinstance(second, Gaussian):
        weights = (1 - share) / first.std**2, share / second.std**2
        precision = weights[0] + weights[1]
        return Gaussian((weights[0] * first.mean + weights[1] * second.mean) / precision, precision.rsqrt())
    raise CompositionError(
        f"geometric mixtures are of choices or of normal steps, not of {type(first).__name__} and "
        f"{type(second).__name__}"
    )


class Blended(nn.Module):
    """The geometric mixture of two policies, step by step: log p = (1 - share) log first + share log second - log Z
    (Nash-MD, arXiv 2312.00886, section 7). Its parameters are theirs and not saved twice."""

    def __init__(self, first: Any, second: Any, share: float):
        super().__init__()
        self.kind, self.share, self._both = first.kind, share, (first, second)

    def next(self, batch: Batch) -> Any:
        first, second = (policy.next(batch) for policy in self._both)
        return geometric(first, second, self.share)

    def at(self, batch: Batch, *, following: bool = False) -> Any:
        first, second = (policy.at(batch, following=following) for policy in self._both)
        return geometric(first, second, self.share)

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        first, second = (policy.score(batch, context, full=True).dist for policy in self._both)
        dist, policy = geometric(first, second, self.share), self._both[0]
        with torch.no_grad():
            return Scores(dist.log_prob(policy.taken(batch)), dist.entropy(), dist if full else None)


@dataclass(frozen=True)
class Mixture:
    """Makes a `Blended` of two models of the run; share: the second one's."""

    first: str = "policy"
    second: str = "reference"
    share: float = 0.5
    renewed: ClassVar[bool] = True

    def build(self, run: Any, name: str) -> nn.Module:
        if not 0 <= self.share <= 1:
            raise CompositionError(f"a share of the mixture is in 0..1, not {self.share}")
        return Blended(run.models[self.first], run.models[self.second], self.share)
