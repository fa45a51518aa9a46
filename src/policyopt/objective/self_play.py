"""Preferences between samples, by how well a denoiser explains each beside a reference: no densities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.ops.matching import MATCH_TIME
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.types import Batch


@dataclass(frozen=True)
class DenoisingPreference(Loss):
    """Diffusion-DPO's logit (arXiv 2311.12908, eq. 14) on chosen and rejected samples, on the chosen row, (B,):
    d = err_theta - err_ref of each at the same time, err the squared error of the denoiser.

    flipped: SePPO (arXiv 2410.05255): where the policy does not yet explain the chosen sample better than the reference
    does, the rejected one counts as chosen as well. beta: beta T omega(t), held constant. points: noised points a row.
    """

    beta: float = 5.0
    flipped: bool = True
    points: int = 1

    needs = "denoising errors"
    formula = "-log sigma(-beta (d_w - f d_r)), f = -sign(d_w) without gradient (flipped), else 1"

    reads = ("pair", "rank")
    roles = ("reference",)

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.points < 1:
            raise CompositionError(f"need beta > 0 and points >= 1, got {self.beta} and {self.points}")

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        columns = seen.noise("matching", self.points)
        chosen, rejected = pair_rows(batch).T
        time = columns[MATCH_TIME].clone()
        time[rejected] = time[chosen]
        return batch.with_rows({**columns, MATCH_TIME: time})

    def gains(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """d_w and d_r (pairs, P), and the chosen rows."""
        ours, theirs = (seen.match(role) for role in ("policy", "reference"))
        gain = (ours.error() - theirs.error()) * ours.target.shape[-1]
        chosen, rejected = pair_rows(batch).T
        return gain[chosen], gain[rejected], chosen

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        of_chosen, of_rejected, rows = self.gains(seen, batch)
        sign = -torch.sign(of_chosen.detach()) if self.flipped else 1.0
        loss = -logsigmoid(-self.beta * (of_chosen - sign * of_rejected)).mean(1)
        return at_rows(loss, rows, len(batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        of_chosen, of_rejected, rows = self.gains(seen, batch)
        better = (of_chosen < 0).to(of_chosen.dtype).mean(1)
        return {
            "better_on_chosen": at_rows(better, rows, len(batch)),
            "gain_on_chosen": at_rows(-of_chosen.mean(1), rows, len(batch)),
            "gain_on_rejected": at_rows(-of_rejected.mean(1), rows, len(batch)),
        }
