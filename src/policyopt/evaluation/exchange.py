"""The exact test of "all arms are equal" that stands before every single difference.

Letters: `M` arms, `K` seeds, `P` compared pairs, `R` rearrangements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REARRANGEMENTS = 9_999
_BLOCK = 1_000  # rearrangements held at once


def exchange_p(
    values: NDArray[np.float64], pairs: Sequence[tuple[int, int]], rearrangements: int = REARRANGEMENTS
) -> float:
    """p of "it makes no difference which arm is which", values (M, K). Exact for whatever distribution.

    If arms are equal, the values of a seed could as well stand in any other order. The largest |t| over the pairs is
    compared with what it is after the arms of every seed have been rearranged at random, R times:
    p = (1 + #{as large}) / (1 + R) (Fisher 1935; Dwass 1957). The rearrangements are the same for equal shapes.
    """
    first, second = np.asarray(pairs).T
    centred = values - values.mean(0)  # what the arms of a seed share cancels in every difference
    observed = float(_largest(centred[None], first, second)[0])
    rng, as_large, left = np.random.default_rng(0), 0, rearrangements
    while left:
        size = min(left, _BLOCK)
        moved = rng.permuted(np.broadcast_to(centred, (size, *centred.shape)), axis=1)
        as_large += int((_largest(moved, first, second) >= observed * (1 - 1e-9)).sum())
        left -= size
    return (1 + as_large) / (1 + rearrangements)


def reaches(arms: int, seeds: int, level: float) -> bool:
    """Whether the test can tell anything: its smallest p is one in M!^(K - 1), of two arms and five seeds 1/16."""
    return math.factorial(arms) ** (seeds - 1) * (1 - level) >= 1


def _largest(values: NDArray[np.float64], first: NDArray, second: NDArray) -> NDArray[np.float64]:
    """Squares of the largest t over the pairs; values (R, M, K) -> (R,). Differences without spread are very large."""
    seeds = values.shape[-1]
    mean = values.mean(-1)
    spread = values - mean[..., None]
    products = spread @ spread.transpose(0, 2, 1) / (seeds - 1)
    own = np.diagonal(products, axis1=1, axis2=2)
    variance = own[:, first] + own[:, second] - 2 * products[:, first, second]
    floor = 1e-12 * max(float(np.square(values).max()), 1e-300)
    return (np.square(mean[:, first] - mean[:, second]) / np.maximum(variance, floor)).max(1)
