"""Agreement of a policy with held-out preferences: no sampling, no verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.evaluation.statistics import Interval, proportion_interval, share_interval
from policyopt.ops.comparisons import pairs_within
from policyopt.ops.groups import group_count

CHUNK = 256  # tasks that are scored together; a bound on memory only


@dataclass(frozen=True)
class Agreement:
    """accuracy: share of pairs whose better answer has the higher log-probability, summed over its tokens and EOS; of
    ranked lists the mean of every list's share. pairs: how many were compared."""

    accuracy: Interval
    pairs: int

    def summary(self) -> dict[str, Any]:
        """The estimate under its name in summary.json, and its interval."""
        found = self.accuracy
        return {
            "preference_accuracy": found.estimate,
            "preference_accuracy_interval": [found.low, found.high],
            "pairs": self.pairs,
        }


def agreement(policy: Any, world: Any) -> Agreement:
    """Over every pair of a world; equal log-probabilities agree with nobody. Of a list of more than two answers all
    pairs count whose labels differ, and the interval is over lists."""
    device = next(policy.parameters()).device
    agreed, compared = [], []
    for ids in torch.arange(world.size, device=device).split(CHUNK):
        rows = world.recorded_pairs(world.tasks(ids).with_rows({"group": ids}))
        with torch.no_grad():
            said = policy.score(rows).logp.double().where(rows.own, 0).sum(1)
        first, second = better_and_worse(rows.row["pair"], rows.row["rank"], rows.row["label"])
        place = rows.row["pair"][first] - ids[0]
        right = (said[first] > said[second]).long()
        for counts, values in ((agreed, right), (compared, torch.ones_like(right))):
            counts.append(torch.zeros_like(ids).index_add(0, place, values))
    hits, counts = torch.cat(agreed), torch.cat(compared)
    hits, counts = hits[counts > 0], counts[counts > 0]
    if not len(counts):
        raise ValueError("agreement needs answers that are better than others; all labels are equal")
    if int(counts.max()) == 1:
        return Agreement(proportion_interval(int(hits.sum()), len(counts)), len(counts))
    return Agreement(share_interval((hits / counts).tolist()), int(counts.sum()))


def better_and_worse(pair: Tensor, rank: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M,) and (M,) of every two rows of a pair or list of which one is better: it has the lower rank and, in a
    longer list, where ranks may hide ties, another label."""
    every = torch.ones_like(pair, dtype=torch.bool)
    first, second = pairs_within(pair, every, every).T
    two = group_count(pair, every)[first] == 2
    ahead = (rank[first] < rank[second]) & ((label[first] != label[second]) | two)
    return first[ahead], second[ahead]
