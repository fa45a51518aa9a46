"""How good a reward model is: ranks of right answers among wrong ones, what best-of-n makes of it, calibration.

RewardMATH (arXiv 2410.01729): a table of scores (N, K + 1) per problem, the right solution in column 0; a reward model
gets credit only where that one is above all others. Its score is valid as far as it orders reward models as the
policies do that are optimised against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from policyopt.evaluation.statistics import proportion_interval


def ranks(scores: Float[Tensor, "N choices"]) -> Int[Tensor, " N"]:
    """1 + how many wrong solutions (columns 1 ...) score at least as high as the right one; a tie counts against."""
    if scores.shape[1] < 2 or not bool(scores.isfinite().all()):
        raise ValueError(f"need finite scores of a right and some wrong solutions, got the shape {tuple(scores.shape)}")
    return 1 + (scores[:, 1:] >= scores[:, :1]).sum(1)


def rank_accuracy(scores: Float[Tensor, "N choices"]) -> float:
    """Share of problems whose right solution is above all wrong ones."""
    return float((ranks(scores) == 1).double().mean())


def mean_reciprocal_rank(scores: Float[Tensor, "N choices"]) -> float:
    return float((1 / ranks(scores).double()).mean())


def round_robin(wins: Float[Tensor, "N choices choices"]) -> Float[Tensor, "N choices"]:
    """Scores of a pairwise judge: wins[n, i, j] of solution i over j (0, 1 or a share), summed over the others."""
    return wins.sum(2) - wins.diagonal(dim1=1, dim2=2)


def validity(measures: Sequence[float], gold: Sequence[float]) -> float:
    """Spearman's correlation between a measure of several reward models and the true quality of the policies that were
    optimised against them; nan if either is constant."""
    if len(measures) != len(gold) or len(measures) < 3:
        raise ValueError(f"need both numbers of three reward models or more, got {len(measures)} and {len(gold)}")
    if len(set(measures)) == 1 or len(set(gold)) == 1:
        return float("nan")
    found = spearmanr(list(measures), list(gold))
    return float(found[0])  # pyright: ignore[reportArgumentType, reportIndexIssue]


@dataclass(frozen=True)
class BestOfN:
    """One point of an over-optimisation curve. kl: log n - (n - 1) / n, an upper bound on the divergence from the
    sampler. proxy, gold: mean score and mean true worth of the chosen candidates. gap: how much more the proxy promises
    than it holds, (proxy - proxy of n = 1) / spread of all scores - (gold - gold of n = 1)."""

    n: int
    kl: float
    proxy: float
    gold: float
    gap: float


def best_of_n(
    proxy: Float[Tensor, "prompts candidates"], gold: Float[Tensor, "prompts candidates"], counts: Sequence[int]
) -> list[BestOfN]:
    """Best of the first n candidates by the proxy (the first among equals), for every n."""
    most = proxy.shape[1]
    if proxy.shape != gold.shape or not counts or min(counts) < 1 or max(counts) > most:
        raise ValueError(f"need both scores of every candidate and counts in 1..{most}, got {list(counts)}")
    proxy, gold = proxy.double(), gold.double()
    spread = float(proxy.std(correction=0))
    found, first = [], (float(proxy[:, 0].mean()), float(gold[:, 0].mean()))
    for n in counts:
        chosen = proxy[:, :n].argmax(1, keepdim=True)
        by_proxy, by_gold = (float(x.gather(1, chosen).mean()) for x in (proxy, gold))
        promised = (by_proxy - first[0]) / spread if spread > 0 else 0.0
        kl = float(torch.tensor(n).double().log()) - (n - 1) / n
        found.append(BestOfN(n, kl, by_proxy, by_gold, promised - (by_gold - first[1])))
    return found


def best_of_n_by_prompt(
    proxy: Float[Tensor, "prompts candidates"], gold: Float[Tensor, "prompts candidates"], n: int
) -> tuple[Float[Tensor, " prompts"], Float[Tensor, " prompts"]]:
    """Expected proxy and gold of the best of n candidates drawn without replacement from those at hand: the mean over
    all subsets, so without the noise of one order. Ties by place."""
    size = proxy.shape[1]
    if not 1 <= n <= size:
        raise ValueError(f"the best of n needs n in 1..{size}, got {n}")
    order = proxy.double().argsort(dim=1, descending=True, stable=True)
    place = torch.arange(size, dtype=torch.float64)
    left = size - 1 - place
    # Chosen at place k: all n - 1 others stand behind it.
    weight = torch.exp(_log_choose(left, n - 1) - _log_choose(torch.tensor(float(size)), n))
    weight = torch.where(left >= n - 1, weight, 0.0)
    by_proxy, by_gold = ((x.double().gather(1, order) * weight).sum(1) for x in (proxy, gold))
    return by_proxy, by_gold


def best_of_n_exact(
    proxy: Float[Tensor, "prompts candidates"], gold: Float[Tensor, "prompts candidates"], n: int
) -> tuple[float, float]:
    """Means over prompts of `best_of_n_by_prompt`."""
    by_proxy, by_gold = best_of_n_by_prompt(proxy, gold, n)
    return float(by_proxy.mean()), float(by_gold.mean())


def _log_choose(total: Tensor, chosen: int) -> Tensor:
    total = total.double().clamp(min=chosen)
    picked = torch.tensor(float(chosen), dtype=torch.float64)
    return (total + 1).lgamma() - (picked + 1).lgamma() - (total - picked + 1).lgamma()


def calibration_error(share: Float[Tensor, " M"], right: Float[Tensor, " M"], bins: int = 10) -> float:
    """Expected calibration error of probabilities, such as sigma(r_w - r_l) of a reward model against whether w was
    preferred: |mean probability - share right| over equally wide bins, weighted by their size (Guo et al. 2017)."""
    if bins < 1 or not len(share) or float(share.min()) < 0 or float(share.max()) > 1:
        raise ValueError("calibration needs probabilities in 0..1 and at least one bin")
    place = (share * bins).long().clamp(max=bins - 1)
    total = torch.zeros(bins, dtype=torch.float64)
    error = total.index_add(0, place, share.double() - right.double()).abs()
    return float(error.sum() / len(share))


def pair_quality(odds: Float[Tensor, " M"]) -> dict[str, Any]:
    """JSON data on the log-odds by which a model prefers the chosen side of pairs (of a reward model r - r'): the share
    that is ordered as labelled (a tie is not), its interval, and the calibration error of sigma(log-odds) as the
    probability of being preferred, each pair read in both orders."""
    gap = odds.double()
    found = proportion_interval(int((gap > 0).sum()), len(gap))
    both, right = torch.cat([gap, -gap]).sigmoid(), torch.cat([torch.ones_like(gap), torch.zeros_like(gap)])
    return {
        "pairs": len(gap),
        "accuracy": found.estimate,
        "accuracy_interval": [found.low, found.high],
        "calibration_error": calibration_error(both, right),
    }
