"""Policy optimization on the forward process: implicit good and bad models, and how much of each a sample shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.matching import Matching, adaptive_clean_error, squared_error
from policyopt.types import Batch


@dataclass(frozen=True)
class NegativeAware(Loss):
    """DiffusionNFT (arXiv 2509.16117, eq. 5 and 6; 2510.16888, eq. 4) on the rows' finished samples, (B,).

    The trained model v is mixed with a lagged one into v+ = b v + (1 - b) v_lag and v- = (1 + b) v_lag - b v; the share
    rho of a row (column `share`) says how much of the error of each counts. Errors are those of the predicted sample,
    each divided by its own size; no densities. pull: lambda of the squared distance to a reference model; 0 needs none.
    points: noised points per row.
    """

    beta: float = 1.0
    scale: float = 5.0
    pull: float = 1e-4
    points: int = 1

    needs = "predictions on a forward process"
    formula = "scale (rho l(v+) + (1 - rho) l(v-)) / b + pull mean_d (v - v_ref)^2, l(u) = mean_d e^2 / sg(mean_d |e|)"

    reads = ("share",)

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.scale <= 0 or self.pull < 0 or self.points < 1:
            raise CompositionError(
                "need beta and scale above 0, pull of 0 or more and points of at least 1, got "
                f"{self.beta}, {self.scale}, {self.pull} and {self.points}"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        return ("lagged", "reference") if self.pull else ("lagged",)

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        return batch.with_rows(seen.noise("matching", self.points))

    def both(self, seen: Seen) -> tuple[Matching, Tensor, Tensor]:
        """What the trained model says, and l(v+), l(v-) (B, P)."""
        said, lagged = seen.match("policy"), seen.match("lagged").prediction
        good = self.beta * said.prediction + (1 - self.beta) * lagged
        bad = (1 + self.beta) * lagged - self.beta * said.prediction
        return said, adaptive_clean_error(said, good), adaptive_clean_error(said, bad)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        said, good, bad = self.both(seen)
        share = batch.row["share"].to(good)[:, None]
        loss = self.scale * (share * good + (1 - share) * bad) / self.beta
        if self.pull:
            loss = loss + self.pull * squared_error(said.prediction, seen.match("reference").prediction)
        return loss.mean(1)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        return {"share": batch.row["share"]}
