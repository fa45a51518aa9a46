"""CISPO: clipped importance sampling policy optimization (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5).

L = -1/(sum_i |o_i|) sum_i sum_t sg(clip(r_it, 1 - e_low, 1 + e_high)) A_it log pi_it
"""

from dataclasses import dataclass, replace

from torch import Tensor

from policyopt.compose import About, Loss, Role, Seen, Term
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import log_ratio
from policyopt.types import Batch
from policyopt.update.averaging import TokenMean


@dataclass(frozen=True)
class ClippedWeight(Loss):
    """The importance weight is clipped and carries no gradient, so every step keeps its gradient."""

    clip_low: float = 1.0
    clip_high: float = 2.0

    formula = "-sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi"

    reads = ("advantage",)
    roles = ("old",)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        weight = log_ratio(seen, batch).exp().clamp(1 - self.clip_low, 1 + self.clip_high).detach()
        return -weight * batch.step["advantage"] * seen["policy"].logp


cispo = replace(
    grpo,
    about=About(
        key="cispo",
        title="MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
        paper="arXiv 2506.13585",
        equation="eq. 4 and 5",
        mechanism="GRPO whose clipped weight only scales the gradient: rare steps are never dropped.",
        departures="The lower bound is open (clip_low = 1), as in the paper; the upper one is an option.",
        when_to_use="Several updates a batch, when PPO-style clipping drops the steps that matter.",
        nearest="grpo",
    ),
    objective=(Term("policy", ClippedWeight(), TokenMean()),),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)
