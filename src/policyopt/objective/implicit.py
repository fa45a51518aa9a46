"""Losses over whole groups: what rows of a task say of each other by the sums of their log-ratios (implicit rewards).

Values are per row, (B,). A group is the rows of one draw that are trained on; all of them carry gradient, so a
minibatch must keep them together (`Term.couples=("group",)`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from policyopt.compose import CompositionError, Loss, Part, PerStep, Seen, coefficient, named_by
from policyopt.objective.surrogates import exact
from policyopt.ops.comparisons import group_log_mean_exp, group_share, pairs_within
from policyopt.ops.groups import group_count, group_mean, others_mean
from policyopt.ops.masked import masked_mean, select
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch

Comparison = Literal["others", "standardised", "none"]


def log_change(seen: Seen, batch: Batch, role: str) -> Float[Tensor, "B T"]:
    """log pi - log role on trained steps, exactly 0 elsewhere."""
    return select(batch.trained, exact(seen["policy"], "policy") - exact(seen[role], role))


def right_rows(batch: Batch, threshold: float) -> Bool[Tensor, " B"]:
    """Rows whose reward is above the threshold."""
    return total_reward(batch) > threshold


def compared_rows(seen: Seen, batch: Batch) -> Bool[Tensor, " B"]:
    """Trained rows of groups with more than one of them: a mask for terms that leave single rows out."""
    counted = batch.trained.any(1)
    return counted & (group_count(batch.row["group"], counted) > 1)


def mixed_groups(batch: Batch, threshold: float) -> Bool[Tensor, " B"]:
    """Trained rows of groups that have right and wrong ones."""
    counted, ids = batch.trained.any(1), batch.row["group"]
    right = right_rows(batch, threshold)
    return counted & (group_count(ids, counted & right) > 0) & (group_count(ids, counted & ~right) > 0)


def centred_in_group(x: Float[Tensor, " B"], batch: Batch) -> Float[Tensor, " B"]:
    counted = batch.trained.any(1)
    return select(counted, x - group_mean(x, batch.row["group"], counted))


@dataclass(frozen=True)
class RightAgainstWrong(Loss, ABC):
    """A loss that knows which rows are right: those with a reward above `threshold`. Groups of one kind only give 0."""

    threshold: float = 0.5

    @abstractmethod
    def compared(self, seen: Seen, batch: Batch, right: Tensor, wrong: Tensor) -> Float[Tensor, " B"]:
        """From the right and the wrong rows of mixed groups."""

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        mixed, right = mixed_groups(batch, self.threshold), right_rows(batch, self.threshold)
        return self.compared(seen, batch, mixed & right, mixed & ~right)


@dataclass(frozen=True)
class ImplicitClassifier(Loss):
    """PACS (arXiv 2509.02522): the reward is a class label, the row's implicit reward its logit.

    u = beta sum_t (log pi - log pi_old), or with mean_logp beta mean_t log pi. comparison: psi = u less the mean of
    the group's others ("others"), (u - mean) / (std + epsilon) ("standardised") or u ("none"). balanced: right and
    wrong rows of a group weigh the same together. Right: a reward above `threshold`.
    """

    beta: float = 1.0
    comparison: Comparison = "others"
    balanced: bool = True
    mean_logp: bool = False
    threshold: float = 0.5
    epsilon: float = 1e-6

    formula = (
        "w_b (softplus(psi_b) - R_b psi_b), psi_b = u_b - mean of u over the others of g, "
        "u = beta sum_t (log pi - log pi_old), w_b = G / (2 n of b's label)"
    )

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.epsilon <= 0 or self.comparison not in get_args(Comparison):
            raise CompositionError(
                f"need beta > 0, epsilon > 0 and comparison one of {get_args(Comparison)}, got {self.beta}, "
                f"{self.epsilon} and {self.comparison!r}"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        return () if self.mean_logp else ("old",)

    def logit(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        if self.mean_logp:
            u = self.beta * masked_mean(seen["policy"].logp, batch.trained)
        else:
            u = self.beta * log_change(seen, batch, "old").sum(1)
        ids, counted = batch.row["group"], batch.trained.any(1)
        if self.comparison == "others":
            return u - others_mean(u, ids, counted)
        if self.comparison == "none":
            return u
        centred, count = centred_in_group(u, batch), group_count(ids, counted)
        variance = group_mean(centred**2, ids, counted) * count / (count - 1).clamp(min=1)
        # A root without derivative at 0, where all are alike.
        spread = torch.where(variance > 0, torch.where(variance > 0, variance, 1.0).sqrt(), 0.0)
        return centred / (spread + self.epsilon)

    def weight(self, batch: Batch) -> Float[Tensor, " B"]:
        right, ids, counted = right_rows(batch, self.threshold), batch.row["group"], batch.trained.any(1)
        count = group_count(ids, counted)
        alike = torch.where(right, group_count(ids, counted & right), group_count(ids, counted & ~right))
        both = (alike > 0) & (alike < count) & self.balanced
        return torch.where(both, count / (2 * alike.clamp(min=1)), 1.0)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        logit = self.logit(seen, batch)
        label = right_rows(batch, self.threshold).to(logit.dtype)
        return self.weight(batch).to(logit) * (softplus(logit) - label * logit)

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        logit = self.logit(seen, batch)
        return {"error": (right_rows(batch, self.threshold).to(logit.dtype) - torch.sigmoid(logit)).abs()}


@dataclass(frozen=True)
class ImplicitRegression(Loss):
    """GVPO (arXiv 2504.19599): implicit rewards of a group, less their mean, regressed on its rewards, less theirs. The
    minimum is anchor exp(R / beta) / Z whoever sampled the rows. Sum over a group: `GroupMean` averages groups.

    pairs: the scale of CoPG (arXiv 2406.19185), whose loss is the squared difference of R - d over every pair of a
    group, over 2 beta (G - 1): G / beta times GVPO's.
    """

    beta: float = 0.1
    anchor: str = "old"
    pairs: bool = False

    formula = (
        "(d_b - mean_g d - (R_b - mean_g R))^2 / (2 (G - 1)), d = beta sum_t (log pi - log pi_anchor); pairs: times "
        "G / beta"
    )
    roles = named_by("anchor")

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise CompositionError(f"beta must be above 0, not {self.beta}")

    def error(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        gap = self.beta * log_change(seen, batch, self.anchor).sum(1) - total_reward(batch)
        return centred_in_group(gap, batch)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        error = self.error(seen, batch)
        count = group_count(batch.row["group"], batch.trained.any(1)).to(error)
        scale = 1 / (2 * (count - 1).clamp(min=1))
        return (scale * count / self.beta if self.pairs else scale) * error**2

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"error": self.error(seen, batch).abs()}


@dataclass(frozen=True)
class JointPairSurrogate(Loss):
    """P3O with a joint clip (arXiv 2310.00212): two rows of a task move by the difference of their rewards, weighted by
    both importance ratios, until their log-ratios are `clip` apart. Of larger groups, the mean over partners."""

    clip: float = 0.2

    formula = (
        "-sg(w_i w_j) min(l D, clip(l, -clip, clip) D) / 2, l = log(w_i / w_j), D = R_i - R_j, "
        "w = exp(sum_t (log pi - log pi_old)), mean over j"
    )
    roles = ("old",)

    def __post_init__(self) -> None:
        if self.clip <= 0:
            raise CompositionError(f"clip must be above 0, not {self.clip}; inf is none")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        change, counted = log_change(seen, batch, "old").sum(1), batch.trained.any(1)
        first, second = pairs_within(batch.row["group"], counted, counted).T
        reward = total_reward(batch)
        apart, better = change[first] - change[second], reward[first] - reward[second]
        both = (change[first] + change[second]).detach().exp()
        loss = -0.5 * both * torch.minimum(apart * better, apart.clamp(-self.clip, self.clip) * better)
        partners = group_count(batch.row["group"], counted) - 1
        return torch.zeros_like(change).index_add(0, first, loss / partners[first])

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"ratio": log_change(seen, batch, "old").sum(1).exp()}


@dataclass(frozen=True)
class RightWrongPreference(RightAgainstWrong):
    """DYPO's group alignment (arXiv 2604.08926): DPO over all pairs of a right and a wrong row of a group, a mean that
    stands on the right rows. Sum over a group: `GroupMean` averages groups."""

    beta: float = 1.0

    formula = "-mean_{j wrong} log sigma(beta (d_b - d_j)) / n right, d = sum_t (log pi - log pi_ref), b right"
    roles = ("reference",)

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise CompositionError(f"beta must be above 0, not {self.beta}")

    def compared(self, seen: Seen, batch: Batch, right: Tensor, wrong: Tensor) -> Tensor:
        change, ids = log_change(seen, batch, "reference").sum(1), batch.row["group"]
        chosen, other = pairs_within(ids, right, wrong).T
        loss = -logsigmoid(self.beta * (change[chosen] - change[other]))
        count = group_count(ids, right) * group_count(ids, wrong)
        return torch.zeros_like(change).index_add(0, chosen, loss / count[chosen])


@dataclass(frozen=True)
class EquivalentPreference(RightAgainstWrong):
    """GEPO (arXiv 2505.12723): DPO between the mean implicit reward of a group's right rows and that of its wrong ones,
    and the variance of the right rows' (equivalent answers should stay equally likely, relative to the reference).
    The value stands on the right rows. Sum over a group: `GroupMean` averages groups."""

    beta: float = 0.1
    spread: float = 1.0

    formula = (
        "(-log sigma(beta (mean_right d - mean_wrong d)) + spread (d_b - mean_right d)^2) / n right, "
        "d = sum_t (log pi - log pi_ref)"
    )
    roles = ("reference",)

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.spread < 0:
            raise CompositionError(f"need beta > 0 and spread >= 0, got {self.beta} and {self.spread}")

    def compared(self, seen: Seen, batch: Batch, right: Tensor, wrong: Tensor) -> Tensor:
        change, ids = log_change(seen, batch, "reference").sum(1), batch.row["group"]
        mean = group_mean(change, ids, right)
        margin = self.beta * (mean - group_mean(change, ids, wrong))
        loss = -logsigmoid(margin) + self.spread * (change - mean) ** 2
        return select(right, loss / group_count(ids, right).clamp(min=1))


@dataclass(frozen=True)
class Shortness(Part):
    """A coefficient of a row: 1 - own steps / limit."""

    limit: int = 8192

    formula = "1 - |o_b| / limit"

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise CompositionError(f"the limit must be at least 1, not {self.limit}")

    def __call__(self, batch: Batch) -> Tensor:
        return 1 - batch.lengths.to(torch.get_default_dtype()) / self.limit


@dataclass(frozen=True)
class DiscriminativeScores(RightAgainstWrong):
    """DRPO (arXiv 2510.04474): the weighted mean score of a group's right rows is raised above a soft maximum of the
    wrong rows' scores; a row's score is its mean log-probability per step. Sum over a group: `GroupMean`.

    weights: softmax of `bonus` (a number per row) at temperature `sharpness` over the right rows, so never below 0;
    inf weighs them alike (DisCO). temperature: of the soft maximum; inf is the mean.
    """

    bonus: PerStep = Shortness()
    temperature: float = 10.0
    sharpness: float = 0.1

    formula = (
        "-softmax_right(bonus / sharpness)_b s_b for right rows, temperature log mean_wrong exp(s / temperature) "
        "/ n wrong for wrong ones, s = mean_t log pi"
    )

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.sharpness <= 0:
            raise CompositionError(
                f"temperature and sharpness must be above 0, got {self.temperature} and {self.sharpness}"
            )

    def compared(self, seen: Seen, batch: Batch, right: Tensor, wrong: Tensor) -> Tensor:
        score, ids = masked_mean(seen["policy"].logp, batch.trained), batch.row["group"]
        bonus = torch.as_tensor(coefficient(self.bonus, batch)).to(score).expand_as(score)
        weight = group_share(bonus / self.sharpness, ids, right)
        hardest = group_log_mean_exp(score, ids, wrong, self.temperature)
        return torch.where(right, -weight * score, select(wrong, hardest / group_count(ids, wrong).clamp(min=1)))
