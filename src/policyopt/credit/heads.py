"""Several rewards, each with its own advantages: what is added is advantages, not rewards."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part
from policyopt.credit.groups import GroupStandardised
from policyopt.types import Batch


@dataclass(frozen=True)
class PerHead(Part):
    """Every reward column `reward:NAME` standardised within groups, into `advantage:NAME` (DanceGRPO, arXiv 2505.07818,
    eq. 8): the scale of one reward does not decide how much it counts."""

    names: tuple[str, ...] = ("reward",)
    epsilon: float = 1e-8
    ddof: int = 1
    bound: float | None = 5.0

    formula = "A_b^h = clip((R_b^h - mean_g R^h) / (std_g R^h + epsilon), -bound, bound) for every head h"

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise CompositionError(f"heads need different names, at least one; got {self.names}")
        self._parts()

    def _parts(self) -> tuple[GroupStandardised, ...]:
        return tuple(
            GroupStandardised(self.epsilon, self.ddof, self.bound, f"reward:{name}", f"advantage:{name}")
            for name in self.names
        )

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"reward:{name}" for name in self.names)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(f"advantage:{name}" for name in self.names)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        for part in self._parts():
            batch = part(ctx, batch)
        return batch
