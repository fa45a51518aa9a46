"""Entropies of the sampled steps as a column, and credit that they modulate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, named_by
from policyopt.ops.entropies import EntropyScale
from policyopt.ops.masked import placed, select
from policyopt.ops.pieces import Pieces, pieces
from policyopt.seen import SeenBatch
from policyopt.types import Batch


@dataclass(frozen=True)
class StepEntropies(Part):
    """Step column `entropy`: how uncertain the policy was at every own step, nats, before the update. Its scores are
    kept under `role`, so that nothing is evaluated twice."""

    role: str = "old"

    formula = "H_bt = -sum_v pi_old(v) log pi_old(v)"
    writes = ("entropy",)
    roles = named_by("role")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        with torch.no_grad():
            scores = SeenBatch(ctx, batch)[self.role].detach()
        entropy = scores.entropy
        if entropy is None:
            raise CompositionError(
                f"the entropy of steps needs a policy that reports it with its scores; that of {self.role!r} is not "
                "known. Use a role that is scored by the policy (when='collected')"
            )
        return batch.with_steps({"entropy": select(batch.own, entropy)}).with_scores({self.role: scores})


@dataclass(frozen=True)
class EntropyScores(Part):
    """Step column `entropy_score` in -1..1: where a step's log-entropy stands among those of the round's steps, 0 at
    their `quantile` (HAPO, arXiv 2509.16591 v2, eq. 5 and 6); see `ops.entropies.EntropyScale`."""

    quantile: float = 0.8

    formula = "h = (log H - Q) / rms(log H - Q), over max h above 0 and |min h| below"
    reads = ("entropy",)
    writes = ("entropy_score",)

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise CompositionError(f"the quantile is in 0..1, not {self.quantile}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        counted, entropy = batch.own & batch.row["scored"][:, None], batch.step["entropy"]
        if not counted.any():
            return batch.with_steps({"entropy_score": torch.zeros_like(entropy)})
        score = EntropyScale.of(entropy[counted], self.quantile).score(entropy[counted])
        return batch.with_steps({"entropy_score": placed(counted, score)})


def followed(turns: Pieces) -> Bool[Tensor, " n"]:
    """Whether another piece of its row comes after each."""
    return torch.cat([turns.row[:-1] == turns.row[1:], torch.zeros_like(turns.row[:1], dtype=torch.bool)])


@dataclass(frozen=True)
class EntropyModulated(Part):
    """Advantages weighed by how sure the policy was in each turn (EMPG, arXiv 2509.09265, eq. 8 and 10 to 12): sure
    turns count more, and a turn that leads to a sure one is paid a bonus; then centred.

    A turn's entropy is the mean over its steps, scaled to 0..1 over the turns of the batch; every turn counts once in
    all statistics, however long. sharpness k, foresight k', bonus zeta.
    """

    sharpness: float = 1.0
    foresight: float = 1.0
    bonus: float = 0.05
    epsilon: float = 1e-8

    formula = "A <- A g + zeta f, less its mean over turns; g = exp(-k h_s) / mean exp(-k h), f = exp(-k' h_{s+1})"
    reads = ("advantage", "entropy", "turn")
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if min(self.sharpness, self.foresight, self.bonus, self.epsilon) < 0:
            raise CompositionError(
                "sharpness, foresight, bonus and epsilon must not be negative, got "
                f"{self.sharpness}, {self.foresight}, {self.bonus} and {self.epsilon}"
            )

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        counted = batch.own & batch.row["scored"][:, None]
        if not counted.any():
            return batch
        turns = pieces(batch, "turn", counted)
        size = turns.total(counted.to(batch.step["entropy"]))
        entropy = turns.total(batch.step["entropy"]) / size
        level = (entropy - entropy.min()) / (entropy.max() - entropy.min() + self.epsilon)
        sure = (-self.sharpness * level).exp()
        clear = torch.where(followed(turns), (-self.foresight * level.roll(-1)).exp(), 0.0)
        scaled = batch.step["advantage"] * turns.spread(sure / sure.mean()) + self.bonus * turns.spread(clear)
        centre = (turns.total(scaled) / size).mean()
        return batch.with_steps({"advantage": select(counted, scaled - centre)})
