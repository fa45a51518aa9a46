"""Losses that train a reward model of whole rows: from pairs, ranked lists and labels.

The model is read by `Seen.worth`. Values of pairs sit on the chosen row and those of lists on rank 0, (B,); rows of a
pair or list must stay together (`Term.couples=("pair",)`).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.objective.preference import pair_logistic
from policyopt.ops.pairs import at_rows, pair_rows
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch


@dataclass(frozen=True)
class RewardModelLoss(Loss, ABC):
    """A loss that reads the reward model `model`."""

    model: str = "reward"

    needs = "rewards of whole rows"
    critics = named_by("model")


@dataclass(frozen=True)
class PairComparison(RewardModelLoss, ABC):
    """A loss of r(chosen) - r(rejected)."""

    reads = ("pair", "rank")

    def difference(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor]:
        """r(chosen) - r(rejected) per pair, and the chosen rows."""
        worth = seen.worth(self.model)
        chosen, rejected = pair_rows(batch).T
        return worth[chosen] - worth[rejected], chosen

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return told_apart(*self.difference(seen, batch), batch)


def told_apart(odds: Tensor, chosen: Tensor, batch: Batch) -> Mapping[str, Tensor]:
    """Log-odds (n,) of chosen rows and whether they are above 0, on these rows."""
    right = 0.5 * (1 + torch.sign(odds))
    return {"margin": at_rows(odds, chosen, len(batch)), "accuracy": at_rows(right, chosen, len(batch))}


@dataclass(frozen=True)
class PairRanking(PairComparison):
    """The Bradley-Terry likelihood of a preference (Ouyang et al. 2022, arXiv 2203.02155, eq. 1), divided by nothing.

    margin: the row column, if any, whose number on the chosen row the difference is to exceed (Llama 2, arXiv
    2307.09288, eq. 2: -log sigma(r_w - r_l - m)). label_smoothing e: labels are wrong with probability e. centred: adds
    centred (r_w + r_l)^2, which fixes the constant that pairs leave open (arXiv 2312.09244).
    """

    margin: str | None = None
    label_smoothing: float = 0.0
    centred: float = 0.0

    formula = "-(1 - e) log sigma(d) - e log sigma(-d) + centred (r_w + r_l)^2, d = r_w - r_l - m"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 0.5 or self.centred < 0:
            raise CompositionError(
                f"need 0 <= label_smoothing < 0.5 and centred >= 0, got {self.label_smoothing} and {self.centred}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return ("pair", "rank") if self.margin is None else ("pair", "rank", self.margin)

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        difference, chosen = self.difference(seen, batch)
        if self.margin is not None:
            difference = difference - batch.row[self.margin][chosen].to(difference.dtype)
        loss = pair_logistic(difference, 1.0, self.label_smoothing)
        if self.centred:
            worth, rejected = seen.worth(self.model), pair_rows(batch)[:, 1]
            loss = loss + self.centred * (worth[chosen] + worth[rejected]) ** 2
        return at_rows(loss, chosen, len(batch))


@dataclass(frozen=True)
class PairHinge(PairComparison):
    """max(0, margin - (r_w - r_l)): nothing is learned from pairs that are told apart by the margin."""

    margin: float = 1.0

    formula = "max(0, margin - (r_w - r_l))"

    def __post_init__(self) -> None:
        if self.margin <= 0:
            raise CompositionError(f"the margin must be above 0, not {self.margin}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        difference, chosen = self.difference(seen, batch)
        return at_rows((self.margin - difference).clamp(min=0), chosen, len(batch))


@dataclass(frozen=True)
class PairOdds(RewardModelLoss):
    """The likelihood of a preference by a model that compares both rows, with or without scores behind it (general
    preference model, arXiv 2410.02197), divided by nothing. label_smoothing e: labels are wrong with probability e."""

    model: str = "preference"
    label_smoothing: float = 0.0

    needs = "preferences between rows"
    formula = "-(1 - e) log sigma(s) - e log sigma(-s), s = log-odds(w > l)"
    reads = ("pair", "rank")

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 0.5:
            raise CompositionError(f"need 0 <= label_smoothing < 0.5, got {self.label_smoothing}")

    def odds(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-odds of the chosen row of every pair, and the chosen rows."""
        chosen, rejected = pair_rows(batch).T
        return seen.compare(self.model, chosen, rejected), chosen

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        odds, chosen = self.odds(seen, batch)
        return at_rows(pair_logistic(odds, 1.0, self.label_smoothing), chosen, len(batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return told_apart(*self.odds(seen, batch), batch)


def list_rows(batch: Batch) -> list[Int[Tensor, " K"]]:
    """Rows of every ranked list, best first, in order of their ids; rows of rank -1 are in none."""
    pair, rank = batch.row["pair"], batch.row["rank"]
    found = []
    for one in pair[rank >= 0].unique():
        rows = ((pair == one) & (rank >= 0)).nonzero()[:, 0]
        rows = rows[rank[rows].argsort(stable=True)]
        if rank[rows].tolist() != list(range(len(rows))):
            raise ValueError(
                f"a ranked list holds the ranks 0 to K - 1 once each, list {int(one)} has {rank[rows].tolist()}; "
                "couple terms by 'pair'"
            )
        found.append(rows)
    return found


def plackett_luce(worth: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """-log probability of a ranking, best first, by repeated choice of the best of those that are left."""
    return -(worth - worth.flip(0).logcumsumexp(0).flip(0))[:-1].sum()


@dataclass(frozen=True)
class ListRanking(RewardModelLoss):
    """The Plackett-Luce likelihood of ranked lists; of two rows it is `PairRanking`. first: only the choice of the best
    row counts (a softmax over the list)."""

    first: bool = False

    formula = "-sum_{k < K - 1} log(exp r_k / sum_{j >= k} exp r_j); first: k = 0 alone"
    reads = ("pair", "rank")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        worth, lists = seen.worth(self.model), list_rows(batch)
        if not lists:
            return torch.zeros_like(worth)
        values = [
            worth[rows].logsumexp(0) - worth[rows[0]] if self.first else plackett_luce(worth[rows]) for rows in lists
        ]
        return at_rows(torch.stack(values), torch.stack([rows[0] for rows in lists]), len(batch))


@dataclass(frozen=True)
class RowCrossEntropy(RewardModelLoss):
    """Cross-entropy of sigma(r) with the row's label in 0..1: of the row column `label`, or if it is None the row's
    reward."""

    label: str | None = "label"

    formula = "-l_b log sigma(r_b) - (1 - l_b) log(1 - sigma(r_b))"
    reads = named_by("label")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        worth = seen.worth(self.model)
        label = total_reward(batch) if self.label is None else batch.row[self.label]
        return softplus(worth) - label.to(worth.dtype) * worth


@dataclass(frozen=True)
class RowTarget(RewardModelLoss):
    """(r_b - target)^2: every row is to be worth the same. Of a landmark at the origin it is the squared error of the
    length of a row's embedding, target minus that length."""

    target: float = -1.0

    formula = "(r_b - target)^2"

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return (seen.worth(self.model) - self.target) ** 2
