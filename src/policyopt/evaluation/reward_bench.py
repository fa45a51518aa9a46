"""A reward model on a benchmark of right and wrong completions: accuracy by subset, calibration, best-of-n curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policyopt.evaluation.reward_models import best_of_n_by_prompt, calibration_error
from policyopt.evaluation.statistics import mean_interval, proportion_interval


def is_right(chosen: Sequence[float], rejected: Sequence[float]) -> bool | None:
    """Whether every chosen completion is above all rejected ones; a tie is not. None: a score is unknown (nan)."""
    if not np.isfinite([*chosen, *rejected]).all():
        return None
    return min(chosen) > max(rejected)


def benchmark(
    subsets: Sequence[str], chances: Sequence[Sequence[float]], right: Sequence[bool | None]
) -> dict[str, Any]:
    """JSON data on the items of a benchmark, in one order: the subset of each, the probabilities that the model gives
    its chosen completions against its rejected ones (sigma of differences, or what a judge of pairs says), and whether
    the item is right. Items that are unknown (None) are counted and left out.

    mean_over_subsets: every subset counts alike. calibration_error: of the probabilities, each read in both orders.
    """
    known = [index for index, answer in enumerate(right) if answer is not None]
    if not known:
        raise ValueError("no item of the benchmark has an answer, so there is nothing to report")
    by_subset = {}
    for name in sorted({subsets[index] for index in known}):
        members = [index for index in known if subsets[index] == name]
        by_subset[name] = _share([bool(right[index]) for index in members])
    chance = torch.tensor([p for index in known for p in chances[index]], dtype=torch.float64)
    hits = torch.cat([torch.ones_like(chance), torch.zeros_like(chance)])
    return {
        **_share([bool(right[index]) for index in known]),
        "unanswered": len(right) - len(known),
        "mean_over_subsets": float(np.mean([found["accuracy"] for found in by_subset.values()])),
        "calibration_error": calibration_error(torch.cat([chance, 1 - chance]), hits),
        "subsets": by_subset,
    }


def _share(right: Sequence[bool]) -> dict[str, Any]:
    found = proportion_interval(sum(right), len(right))
    return {"items": len(right), "accuracy": found.estimate, "accuracy_interval": [found.low, found.high]}


def curve(proxy: NDArray[np.float64], gold: NDArray[np.float64], counts: Sequence[int]) -> list[dict[str, Any]]:
    """The over-optimisation curve of best-of-n by a reward model, both scores (prompts, candidates): expected proxy and
    gold of the best of n candidates, over all choices of n, with intervals over prompts; kl: log n - (n - 1) / n, an
    upper bound on the divergence from the sampler in nats. Prompts with an unknown score are left out."""
    known = np.isfinite(proxy).all(1) & np.isfinite(gold).all(1)
    if not known.any():
        raise ValueError("no prompt has the proxy and gold scores of all its candidates, so there is no curve")
    scores, worth = torch.from_numpy(proxy[known]), torch.from_numpy(gold[known])
    found = []
    for n in counts:
        point: dict[str, Any] = {"n": n, "kl": float(np.log(n) - (n - 1) / n), "prompts": int(known.sum())}
        for name, values in zip(("proxy", "gold"), best_of_n_by_prompt(scores, worth, n), strict=True):
            interval = mean_interval(values.numpy())
            bounds = [bound if np.isfinite(bound) else None for bound in (interval.low, interval.high)]
            point |= {name: interval.estimate, f"{name}_interval": bounds}
        found.append(point)
    return found
