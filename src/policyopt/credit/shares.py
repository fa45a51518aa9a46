"""How good a sample is, as a number in 0..1."""

from __future__ import annotations

from dataclasses import dataclass

from policyopt.compose import CompositionError, Context, Part
from policyopt.credit.groups import standardised
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class GoodShare(Part):
    """Row column `share`: rho = clip(A / (2 bound) + 1/2, least, 1) of the group-standardised advantage A
    (DiffusionNFT, arXiv 2509.16117, section 3.3). least: no row counts as worse than that; 0.5 uses good rows only."""

    bound: float = 5.0
    epsilon: float = 1e-4
    ddof: int = 0
    least: float = 0.0

    formula = "rho_b = clip(A_b / (2 bound) + 1/2, least, 1), A_b = (R_b - mean_g R) / (std_g R + epsilon)"

    writes = ("share",)

    def __post_init__(self) -> None:
        if self.bound <= 0 or self.epsilon < 0 or self.ddof not in (0, 1) or not 0 <= self.least <= 1:
            raise CompositionError(
                "need bound > 0, epsilon >= 0, ddof 0 or 1 and least in 0..1, got "
                f"{self.bound}, {self.epsilon}, {self.ddof} and {self.least}"
            )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        advantage = standardised(total_reward(batch), batch.row["group"], batch.row["scored"], self.epsilon, self.ddof)
        return batch.with_rows({"share": (advantage / (2 * self.bound) + 0.5).clamp(self.least, 1)})
