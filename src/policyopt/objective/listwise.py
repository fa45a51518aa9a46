"""Losses of ranked lists of rows: column `pair` names the list, `rank` the place in it (0: best), `label` how good.

Values sit on the best row of each list, (B,); `listed` is their mask, so that `RowMean` averages lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from policyopt.compose import CompositionError, Loss, Seen
from policyopt.objective.pairwise import Stated
from policyopt.ops.links import LINKS
from policyopt.ops.masked import select
from policyopt.ops.pairs import at_rows, list_rows, list_tops
from policyopt.types import Batch

Targets = Literal["softmax", "pointwise"]


def listed(seen: Seen, batch: Batch) -> Tensor:
    """A mask: the best row of every list."""
    return list_tops(batch)


def top_steps(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained steps of the best row of every list, for supervised terms beside a list's loss."""
    return batch.trained & list_tops(batch)[:, None]


@dataclass(frozen=True)
class Lists:
    """Rows as lists: row numbers (L, K), which entries there are, and values (L, K) of them, 0 elsewhere."""

    rows: Tensor
    there: Tensor
    said: Tensor
    label: Tensor


class OfLists(Loss, ABC):
    """A loss with one value per list."""

    needs = "lists of rows"

    @abstractmethod
    def said(self, seen: Seen, batch: Batch) -> Tensor:
        """(B,) the score of every row."""

    @abstractmethod
    def of_lists(self, lists: Lists, batch: Batch) -> Tensor:
        """(L,) from scores and labels."""

    def lists(self, seen: Seen, batch: Batch) -> Lists:
        rows = list_rows(batch)
        there, at = rows >= 0, rows.clamp(min=0)
        said = self.said(seen, batch)
        label = batch.row["label"].to(said.dtype)
        return Lists(rows, there, select(there, said[at]), select(there, label[at]))

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        lists = self.lists(seen, batch)
        if not lists.rows.numel():
            return self.said(seen, batch) * 0
        return at_rows(self.of_lists(lists, batch), lists.rows[:, 0], len(batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        """accuracy: the share of a list's pairs of different labels whose scores are in the labels' order."""
        lists = self.lists(seen, batch)
        if not lists.rows.numel():
            return {}
        better = lists.there[:, :, None] & lists.there[:, None, :] & (lists.label[:, :, None] > lists.label[:, None, :])
        right = 0.5 * (1 + torch.sign(lists.said[:, :, None] - lists.said[:, None, :]))
        share = select(better, right).sum((1, 2)) / better.sum((1, 2)).clamp(min=1)
        return {"accuracy": at_rows(share, lists.rows[:, 0], len(batch))}


def places_by_score(lists: Lists) -> Tensor:
    """(L, K) places 1, 2 ... by decreasing score: a permutation; of equal scores the earlier row comes first."""
    earlier = torch.where(lists.there, lists.rows, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    score = torch.where(lists.there, lists.said.detach(), -torch.inf).gather(1, earlier)
    order = earlier.gather(1, score.argsort(dim=1, descending=True, stable=True))
    place = torch.arange(1, order.shape[1] + 1, device=order.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, place)


def lambda_weights(lists: Lists) -> Tensor:
    """(L, K, K) how much the discounted gain changes if two rows swap places (LiPO-lambda, arXiv 2402.01878):
    |2^label_i - 2^label_j| |1 / log(1 + place_i) - 1 / log(1 + place_j)|."""
    gain, discount = 2**lists.label, 1 / torch.log1p(places_by_score(lists).to(lists.label.dtype))
    change = (gain[:, :, None] - gain[:, None, :]) * (discount[:, :, None] - discount[:, None, :])
    return change.abs()


@dataclass(frozen=True)
class PairsOfList(OfLists, ABC):
    """link(s_i - rejected s_j - target) over every pair of a list with label_i > label_j.

    gain: pairs weigh by `lambda_weights`. averaged: the mean over those pairs, else their sum.
    soft: all pairs i before j, with the row column `strength` (B, K), strength[i, k] the probability that row i is
    better than the row of rank k of its list: the cross-entropy p link(z) + (1 - p) link(-z) (arXiv 2405.14103).
    """

    link: Literal["logistic", "hinge", "squared", "exponential", "discovered"] = "logistic"
    rejected: float = 1.0
    gain: bool = False
    averaged: bool = False
    soft: bool = False

    def __post_init__(self) -> None:
        if self.link not in LINKS or not 0 <= self.rejected <= 1:
            raise CompositionError(
                f"need link in {tuple(LINKS)} and rejected in 0..1, got {self.link}, {self.rejected}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return ("pair", "rank", "label", *(("strength",) if self.soft else ()))

    def of_lists(self, lists: Lists, batch: Batch) -> Tensor:
        both = lists.there[:, :, None] & lists.there[:, None, :]
        of = LINKS[self.link]
        loss = of(lists.said[:, :, None] - self.rejected * lists.said[:, None, :])
        if self.soft:
            pairs = both.triu(1)
            strength, rank = batch.row["strength"], batch.row["rank"][lists.rows.clamp(min=0)]
            chance = strength[lists.rows.clamp(min=0)[:, :, None], rank[:, None, :]].to(loss.dtype)
            other = of(lists.said[:, None, :] - self.rejected * lists.said[:, :, None])
            loss = select(pairs, chance) * loss + select(pairs, 1 - chance) * other
        else:
            pairs = both & (lists.label[:, :, None] > lists.label[:, None, :])
        if self.gain:
            loss = loss * lambda_weights(lists)
        total = select(pairs, loss).sum((1, 2))
        return total / pairs.sum((1, 2)).clamp(min=1) if self.averaged else total


@dataclass(frozen=True)
class PairsOfStated(Stated, PairsOfList):
    """Pairs of a list by what rows say of themselves: LiPO's pairwise members (arXiv 2402.01878), OSP, CPL on ranked
    segments."""

    formula = "sum_{label_i > label_j} w_ij link(s_i - rejected s_j), s = beta sum_t (log pi - log pi_anchor)"

    def __post_init__(self) -> None:
        Stated.__post_init__(self)
        PairsOfList.__post_init__(self)

    @property
    def reads(self) -> tuple[str, ...]:
        return (*PairsOfList.reads.fget(self), *self.columns)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class PairsOfDistances(PairsOfList):
    """Pairs of a list by how close the policy would have stayed (DPPO, arXiv 2301.12842): a row's score is minus
    the mean distance over its trained steps of the policy's mode to the action taken, over span temperature.

    span: the width of the actions' range. The row before in a pair counts in full, the other by `rejected` (lambda).
    """

    temperature: float = 0.1
    span: float = 2.0

    needs = "the steps that the policy would take"
    formula = "softplus(d_i - rejected d_j), d = mean_t |mode(s_t) - a_t| / (span temperature)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or self.span <= 0:
            raise CompositionError(f"temperature and span must be above 0, got {self.temperature} and {self.span}")

    def said(self, seen: Seen, batch: Batch) -> Tensor:
        own = batch.trained
        would = seen.at("policy").mode()
        if not would.is_floating_point():
            raise CompositionError("distances are between actions that are numbers; use a control policy of them")
        apart = (would - seen.taken())[own]
        square = apart.reshape(len(apart), -1).square().sum(1)
        # A root whose derivative at 0 is 0.
        near = square == 0
        distance = torch.where(near, 0.0, torch.where(near, 1.0, square).sqrt())
        by_row = distance.new_zeros(len(batch)).index_add(0, own.nonzero()[:, 0], distance)
        return -by_row / own.sum(1).clamp(min=1) / (self.span * self.temperature)


@dataclass(frozen=True)
class RankedList(Stated, OfLists):
    """Every row against all that rank below it: Plackett-Luce, and PRO (arXiv 2306.17492).

    gaps: every score is multiplied by the difference of its label to the anchor row's, the anchor's by the largest of
    them. Without: list-MLE.
    """

    gaps: bool = True

    formula = "sum_k log sum_{i >= k} exp(T_ki s_i) - T_kk s_k, T_ki = label_k - label_i, T_kk = max_i T_ki (gaps)"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("pair", "rank", "label", *self.columns)

    def of_lists(self, lists: Lists, batch: Batch) -> Tensor:
        total = lists.said.new_zeros(len(lists.rows))
        for k in range(lists.rows.shape[1] - 1):
            there, score = lists.there[:, k:], lists.said[:, k:]
            if self.gaps:
                gap = select(there, lists.label[:, k : k + 1] - lists.label[:, k:])
                score = score * torch.cat([gap.max(1, keepdim=True).values, gap[:, 1:]], 1)
            contrast = torch.where(there, score, -torch.inf).logsumexp(1) - score[:, 0]
            total = total + select(there[:, 1], torch.where(there[:, 1], contrast, 0.0))
        return total


@dataclass(frozen=True)
class LabelledList(Stated, OfLists):
    """Labels as targets (the other members of LiPO): "softmax", their shares against the softmax of scores over the
    list; "pointwise", each label in 0..1 as the probability of a row by itself."""

    targets: Targets = "softmax"

    formula = "-sum_k label_k / sum label log softmax(s)_k; -sum_k label log sigma(s) + (1 - label) log sigma(-s)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets not in get_args(Targets):
            raise CompositionError(f"targets is one of {get_args(Targets)}, not {self.targets!r}")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("pair", "rank", "label", *self.columns)

    def of_lists(self, lists: Lists, batch: Batch) -> Tensor:
        if self.targets == "pointwise":
            loss = -lists.label * logsigmoid(lists.said) - (1 - lists.label) * logsigmoid(-lists.said)
            return select(lists.there, loss).sum(1)
        logp = torch.where(lists.there, lists.said, -torch.inf).log_softmax(1)
        whole = lists.label.sum(1, keepdim=True)
        share = lists.label / torch.where(whole > 0, whole, 1.0)
        return -(share * select(lists.there, logp)).sum(1)


@dataclass(frozen=True)
class ListImitation(Loss):
    """The supervised loss on the best row of a list, times (rows of the list - 1)^2 (PRO, arXiv 2306.17492)."""

    needs = "lists of rows"
    formula = "-(n - 1)^2 log pi_bt"
    reads = ("pair", "rank")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        rows = list_rows(batch)
        others = torch.zeros_like(seen["policy"].logp[:, 0])
        if rows.numel():
            others[rows[:, 0]] = ((rows >= 0).sum(1) - 1).to(others.dtype)
        return -(others**2)[:, None] * select(batch.trained, seen["policy"].logp)
