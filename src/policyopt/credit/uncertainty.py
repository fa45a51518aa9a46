"""Advantages scaled by how sure the policy is of its answer to the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.groups import group_count
from policyopt.ops.masked import masked_mean
from policyopt.seen import asked
from policyopt.types import Batch


def cluster_entropy(
    keys: Int[Tensor, " B"], group: Int[Tensor, " B"], logit: Float[Tensor, " B"], valid: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """-sum_k p_k log p_k of each row's group: its valid rows, with shares softmax(logit), in clusters of equal keys. A
    negative key (an answer that could not be read) is a cluster of its own. 0 in a group without valid rows."""
    entropy = torch.zeros_like(logit)
    for one in group[valid].unique():
        rows = (valid & (group == one)).nonzero()[:, 0]
        share = logit[rows].softmax(0)
        own = keys[rows].max().clamp(min=0) + 1 + torch.arange(len(rows), device=keys.device)
        cluster = torch.where(keys[rows] < 0, own, keys[rows]).unique(return_inverse=True)[1]
        weight = share.new_zeros(int(cluster.max()) + 1).index_add(0, cluster, share)
        entropy[group == one] = torch.special.entr(weight).sum().clamp(min=0)
    return entropy


@dataclass(frozen=True)
class SemanticEntropyScaled(Part):
    """Advantages times a factor that falls with the entropy of the group's answers (SEED-GRPO, arXiv 2505.12346).

    Answers with equal `world.answer_keys` mean the same; a row's share is its likelihood per step among those of its
    group ("likelihood"), or equal ("count"). alpha: strength of the fall, over the largest entropy log G. form:
    1 / (1 + alpha u), 1 - alpha u or e^(-alpha u) with u = SE / log G.
    """

    alpha: float = 0.0417
    form: Literal["inverse", "linear", "exponential"] = "inverse"
    shares: Literal["likelihood", "count"] = "likelihood"

    needs = "a world that says which answers are the same"
    formula = "A_bt *= 1 / (1 + alpha SE_g / log G), SE_g = -sum_k p_k log p_k over clusters of answers"

    reads = ("advantage",)
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.alpha < 0 or (self.form == "linear" and self.alpha > 1):
            raise CompositionError(
                f"alpha must not be negative, and at most 1 for the linear form (advantages keep their sign), got "
                f"{self.alpha}"
            )

    def factor(self, unsure: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """f of the entropy as a share 0..1 of the largest."""
        if self.form == "inverse":
            return 1 / (1 + self.alpha * unsure)
        return 1 - self.alpha * unsure if self.form == "linear" else (-self.alpha * unsure).exp()

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        keys = asked(ctx.world, "answer_keys", "which answers are the same")(batch)
        group, scored = batch.row["group"], batch.row["scored"]
        logit = masked_mean(batch.step["behaviour"], batch.own)
        entropy = cluster_entropy(keys, group, logit if self.shares == "likelihood" else 0 * logit, scored)
        largest = group_count(group, scored).clamp(min=1).to(entropy).log()
        unsure = torch.where(largest > 0, entropy / largest.clamp(min=1e-12), 0.0)
        factor = self.factor(unsure)
        ctx.meter.mean("semantic_entropy", entropy, scored)
        ctx.meter.mean("certainty_factor", factor, scored)
        return batch.with_steps({"advantage": factor[:, None] * batch.step["advantage"]})
