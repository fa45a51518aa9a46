"""Preferences between odds, and between whole distributions: what is preferred is to be above what is not at every
place of the two orders, not pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.objective.surrogates import exact
from policyopt.ops.links import LINKS, Link
from policyopt.ops.masked import masked_mean, masked_sum
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.types import Batch

LEVEL, VALUE, SLOPE = "_level", "_value", "_slope"


def log_odds(mean: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log p - log(1 - p) of p = exp(mean), p kept below 1 by the precision of the numbers."""
    below = mean.clamp(max=-torch.finfo(mean.dtype).eps)
    return below - torch.log(-torch.expm1(below))


@dataclass(frozen=True)
class OddsPreference(Loss):
    """ORPO's odds ratio (arXiv 2403.07691, eq. 4 to 6): the odds of the preferred row against those of the other, of
    the mean log-probability per step. No reference; the paper adds it, times 0.1, to the likelihood of preferred rows.
    Equal rows: log 2."""

    formula = "-log sigma(log odds(y_w) - log odds(y_l)), odds = p / (1 - p), p = exp(mean_t log pi)"
    reads = ("pair", "rank")

    def odds(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log odds ratio per pair, and the chosen rows."""
        said = log_odds(masked_mean(exact(seen["policy"], "policy"), batch.trained))
        chosen, rejected = pair_rows(batch).T
        return said[chosen] - said[rejected], chosen

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        ratio, chosen = self.odds(seen, batch)
        return at_rows(softplus(-ratio), chosen, len(batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        ratio, chosen = self.odds(seen, batch)
        return {"log_odds_ratio": at_rows(ratio, chosen, len(batch))}


@dataclass(frozen=True)
class SortedMargins(Loss):
    """AOT for pairs (arXiv 2406.05882, paired): the margins log pi(y_w) - log pi(y_l) of an optimiser step, in order,
    above the reference's margins, in order. At the reference: the link of 0."""

    beta: float = 0.1
    link: Link = "logistic"

    formula = "link(beta (m_(k) - m_ref,(k))), m = log pi(y_w) - log pi(y_l) in ascending order"
    reads = ("pair", "rank")
    roles = ("reference",)

    def __post_init__(self) -> None:
        _check(self.beta, self.link)

    def margins(self, seen: Seen, batch: Batch, role: str) -> tuple[Tensor, Tensor]:
        total = masked_sum(exact(seen[role], role), batch.trained)
        chosen, rejected = pair_rows(batch).T
        return total[chosen] - total[rejected], chosen

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        own, chosen = self.margins(seen, batch, "policy")
        level = self.margins(seen, batch, "reference")[0].clone()
        some = batch.trained.any(1)
        counted = some[pair_rows(batch)].all(1).nonzero()[:, 0]
        order = counted[own[counted].argsort(stable=True)]
        level[order] = level[counted].sort().values
        return batch.with_rows({LEVEL: at_rows(level, chosen, len(batch))})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        batch = batch if LEVEL in batch.row else self.plan(seen, batch)
        own, chosen = self.margins(seen, batch, "policy")
        return at_rows(LINKS[self.link](self.beta * (own - batch.row[LEVEL][chosen])), chosen, len(batch))


@dataclass(frozen=True)
class SortedSides(Loss):
    """AOT without pairs (arXiv 2406.05882, unpaired; `aot_unpaired` of TRL, once its `aot_pair`): log-ratios to the
    reference of the good rows of an optimiser step, in order, above those of the others, in order. Of unequal numbers,
    a row meets the rows of the same quantiles. The value stands on the good rows; a mean over the rows of both sides is
    that over the meetings.

    column: "label" (above 1/2: good) or "rank" (0: good, -1: on no side).
    """

    beta: float = 0.1
    link: Link = "logistic"
    column: str = "label"

    formula = "link(beta (d_(k) good - d_(k) other)), d = sum_t (log pi - log pi_ref) in ascending order"
    roles = ("reference",)
    reads = named_by("column")

    def __post_init__(self) -> None:
        _check(self.beta, self.link)
        if self.column not in ("label", "rank"):
            raise CompositionError(f"column is label or rank, not {self.column!r}")

    def change(self, seen: Seen, batch: Batch) -> Float[Tensor, " B"]:
        return masked_sum(exact(seen["policy"], "policy") - exact(seen["reference"], "reference"), batch.trained)

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        change, column = self.change(seen, batch).detach(), batch.row[self.column]
        by_label = self.column == "label"
        good, some = column > 0.5 if by_label else column == 0, batch.trained.any(1) & (by_label | (column >= 0))
        value, slope = torch.zeros_like(change), torch.zeros_like(change)
        sides = [(some & side).nonzero()[:, 0] for side in (good, ~good)]
        first, second = (rows[change[rows].argsort(stable=True)] for rows in sides)
        if len(first) and len(second):
            count = max(len(first), len(second))
            place = torch.arange(count, device=change.device)
            first, second = first[place * len(first) // count], second[place * len(second) // count]
            apart = (change[first] - change[second]).requires_grad_()
            with torch.enable_grad():
                cost = LINKS[self.link](self.beta * apart)
                (steep,) = torch.autograd.grad(cost.sum(), apart)
            scale = int(some.sum()) / count
            value = value.index_add(0, first, scale * cost.detach())
            slope = slope.index_add(0, first, scale * steep).index_add(0, second, -scale * steep)
        return batch.with_rows({VALUE: value, SLOPE: slope})

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        batch = batch if VALUE in batch.row else self.plan(seen, batch)
        change = self.change(seen, batch)
        # Who meets whom is of the whole step; its value and slope are planned, so that micro-batches may part them.
        return batch.row[VALUE] + batch.row[SLOPE] * (change - change.detach())


def _check(beta: float, link: str) -> None:
    if beta <= 0 or link not in LINKS or link not in get_args(Link):
        raise CompositionError(f"need beta > 0 and link one of {tuple(LINKS)}, got {beta} and {link!r}")
