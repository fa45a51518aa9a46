"""Losses of preferences, put together of three choices: what a row says of itself, how two rows are set against each
other (a margin), and what a margin costs (a link). Values of pairs sit on the chosen row, (B,)."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.objective.surrogates import exact
from policyopt.ops.links import SIDE_LINKS, Divergence, Link, SideLink, preferred, tilted
from policyopt.ops.masked import select
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.ops.sequences import step_weights
from policyopt.types import Batch


def chosen_steps(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained steps of rows of rank 0, for supervised terms beside preferences."""
    return batch.trained & (batch.row["rank"] == 0)[:, None]


def sided_rows(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained rows that are a side of a pair, for losses of single rows."""
    return batch.trained.any(1) & (batch.row["rank"] >= 0)


@dataclass(frozen=True)
class Stated(Loss, ABC):
    """A loss of what rows say of themselves, s_b = beta sum_t w_bt (log pi - log pi_anchor), an implicit reward.

    anchor: a role, None for none (then s is of log pi alone). mean: the mean over the row's trained steps, not the sum.
    discount: gamma^k for the k-th trained step of a row. by: column of weights w, of steps or rows; none if empty.
    divergence: the one that ties the policy to the anchor, for sums.
    """

    beta: float = 0.1
    anchor: str | None = "reference"
    mean: bool = False
    discount: float = 1.0
    by: str = ""
    divergence: Divergence = "reverse_kl"

    roles = named_by("anchor")

    def __post_init__(self) -> None:
        if self.beta <= 0 or not 0 < self.discount <= 1 or self.divergence not in get_args(Divergence):
            raise CompositionError(
                f"need beta > 0, discount in 0..1 above 0 and divergence one of {get_args(Divergence)}, got "
                f"{self.beta}, {self.discount} and {self.divergence!r}"
            )
        if self.divergence != "reverse_kl" and (self.anchor is None or self.mean):
            raise CompositionError(f"a divergence is of sums beside an anchor; got {self.anchor=} and {self.mean=}")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.by,) if self.by else ()

    def said(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        logp = exact(seen["policy"], "policy")
        if self.anchor is not None:
            logp = logp - exact(seen[self.anchor], self.anchor)
        steps = select(batch.trained, logp)
        if self.by:
            steps = steps * step_weights(batch, self.by)
        if self.discount < 1:
            steps = steps * self.discount ** (batch.trained.cumsum(1) - 1).clamp(min=0)
        total = steps.sum(1)
        if self.mean:
            total = total / batch.trained.sum(1).clamp(min=1)
        return self.beta * tilted(total, self.divergence)


@dataclass(frozen=True)
class PairPreference(Stated):
    """Direct preference losses by name of their link, of z = s_w - rejected s_l - target.

    link: "logistic" (DPO), "hinge" (SLiC, RSO), "squared" (IPO, (Delta - 1 / (2 beta))^2, arXiv 2310.12036 eq. 17),
    "exponential", "exo", "discovered" (DiscoPOP), or one that sees both sides: "nca", "apo_zero", "apo_down", "sppo".
    wrong, unbiased: see `ops.links.preferred` (conservative and robust DPO). doubt: row column of each pair's own
    chance of a wrong label, in 0..1/2, in place of `wrong`; read on the chosen row. rejected: how much the rejected
    side counts (CPL's bias, arXiv 2310.13639). target: the margin asked for (SimPO's gamma, arXiv 2405.14734 eq. 6).
    """

    link: Link | SideLink = "logistic"
    wrong: float = 0.0
    unbiased: bool = False
    rejected: float = 1.0
    target: float = 0.0
    doubt: str = ""

    formula = "link(s_w - rejected s_l - target), s = beta sum_t (log pi - log pi_anchor)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.wrong < 0.5 or not 0 <= self.rejected <= 1:
            raise CompositionError(f"need 0 <= wrong < 0.5 and rejected in 0..1, got {self.wrong} and {self.rejected}")
        if self.link not in (*get_args(Link), *SIDE_LINKS):
            raise CompositionError(f"link is one of {(*get_args(Link), *SIDE_LINKS)}, not {self.link!r}")
        if self.link == "exo" and not self.wrong:
            raise CompositionError("exo measures a divergence to the labels, which needs wrong > 0, such as 0.001")
        if self.doubt and (self.wrong or self.link in (*SIDE_LINKS, "exo")):
            raise CompositionError(f"doubt={self.doubt!r} mixes losses of a margin in place of `wrong`; leave one out")
        if self.link in SIDE_LINKS and (self.wrong, self.rejected, self.target) != (0, 1, 0):
            raise CompositionError(f"{self.link} has no margin, so neither wrong, rejected nor target: leave them out")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("pair", "rank", *self.columns, *((self.doubt,) if self.doubt else ()))

    def sides(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """s of the chosen and of the rejected row of every pair, and the chosen rows."""
        said, (chosen, rejected) = self.said(seen, batch), pair_rows(batch).T
        return said[chosen], said[rejected], chosen

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        of_chosen, of_rejected, rows = self.sides(seen, batch)
        if self.link in SIDE_LINKS:
            loss = SIDE_LINKS[self.link](of_chosen, of_rejected)
        else:
            margin = of_chosen - self.rejected * of_rejected - self.target
            link: Link = self.link  # pyright: ignore[reportAssignmentType]
            loss = preferred(margin, link, self.wrong, unbiased=self.unbiased)
            if self.doubt:
                chance = batch.row[self.doubt][rows].to(loss.dtype)
                loss = (1 - chance) * loss + chance * preferred(-margin, link)
        # IPO and SPPO are written for log-ratios, not for rewards.
        if self.link in ("squared", "sppo"):
            loss = loss / self.beta**2
        return at_rows(loss, rows, len(batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        of_chosen, of_rejected, rows = self.sides(seen, batch)
        margin = of_chosen - of_rejected
        found = {"margin": margin, "accuracy": 0.5 * (1 + torch.sign(margin)), "chosen": of_chosen}
        return {name: at_rows(value, rows, len(batch)) for name, value in found.items()}


@dataclass(frozen=True)
class RowPreference(Stated):
    """Single rows against a point: good ones above it, others below, without pairs.

    column: "label" (above 1/2: good) or "rank" (0: good, -1: on no side). point: subtracted from s; with balance also
    the mean of s over the good and the other rows of the optimiser step, without gradient (BCO, arXiv 2404.04656, whose
    running mean is over batches). link: "logistic", or "kto" with 1 - sigma(z) (arXiv 2402.01306) whose point is the
    mean of s over the step's rows, not below 0, in place of an estimate from mismatched rows. good, bad: weights.
    """

    column: str = "label"
    link: str = "logistic"
    point: float = 0.0
    balance: bool = False
    good: float = 1.0
    bad: float = 1.0

    formula = "weight link(+-(s - point)), + for good rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.link not in ("logistic", "kto") or self.column not in ("label", "rank"):
            raise CompositionError(f"link is logistic or kto, column label or rank; got {self.link!r}, {self.column!r}")
        if self.good < 0 or self.bad < 0:
            raise CompositionError(f"weights must not be negative, got {self.good} and {self.bad}")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column, *self.columns)

    def right(self, batch: Batch) -> Tensor:
        column = batch.row[self.column]
        return column > 0.5 if self.column == "label" else column == 0

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        if not self.balance and self.link != "kto":
            return batch
        said, right = self.said(seen, batch).detach(), self.right(batch)
        some = batch.trained.any(1) if self.column == "label" else sided_rows(seen, batch)
        if not bool(some.any()):
            point = said.new_zeros(())
        elif self.link == "kto":
            point = said[some].mean().clamp(min=0)
        else:
            sides = [said[some & side] for side in (right, ~right)]
            point = torch.stack([side.mean() for side in sides if len(side)]).mean()
        return batch.with_rows({"_point": point.expand(len(batch)).clone()})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        right, point = self.right(batch), batch.row.get("_point", 0.0)
        ahead = self.said(seen, batch) - self.point - point
        margin = torch.where(right, ahead, -ahead)
        loss = 1 - torch.sigmoid(margin) if self.link == "kto" else preferred(margin, "logistic")
        return torch.where(right, self.good, self.bad) * loss
