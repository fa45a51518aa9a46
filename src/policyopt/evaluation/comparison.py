"""Several methods over the same seeds: which are told apart, which are not, and how many seeds would do.

Letters: `M` methods (arms), `K` seeds. Everything is a pure function of the measured numbers.

Two arms are compared by the differences of their values on the same seeds, with the paired t test (Student 1908). All
comparisons of a report are one family: p values are adjusted by Holm's step-down rule (Holm 1979), which keeps the
chance of any false difference at `1 - level` whatever the dependence between the comparisons. The t test is exact for
normal values; runs that solve a task or not can break it. So no difference counts unless the exact test that all arms
are equal (`exchange_p`) is rejected as well: among equal arms the chance of any difference is at most `1 - level`,
whatever the distribution (but for two arms and five seeds, of which that test can say nothing). Resampling K seeds does
not keep it: `benchmarks/aa_test.py` measures how often each procedure sees a difference between equal methods.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy  # its submodules are loaded where they are first used

from policyopt.evaluation.exchange import exchange_p, reaches
from policyopt.evaluation.statistics import MINIMUM_SEEDS, Interval, paired_difference, seed_interval

POWER = 0.8
MOST_SEEDS = 1000  # more are not worth naming


class ComparisonError(ValueError):
    """Values that can not be compared."""


class Finding(StrEnum):
    """What is known about two arms, of which the first has the better mean."""

    BETTER = "better"
    OPEN = "cannot tell apart"


@dataclass(frozen=True)
class Pair:
    """Two arms. difference: first - second with its own interval, not adjusted. p: adjusted over the family, and at
    least that of "all arms are equal".

    enough: seeds in all with which a difference as large and as variable as the one seen would be found with
    probability `POWER`; None for a pair that is told apart, without a difference, or of more than `MOST_SEEDS`.
    """

    first: str
    second: str
    difference: Interval
    p: float
    finding: Finding
    enough: int | None = None


@dataclass(frozen=True)
class Place:
    """An arm in the ranking. rank: best and worst place that the findings leave open; 1 is the best."""

    arm: str
    mean: Interval
    rank: tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """places: by mean, best first. pairs: in the order of `places`, the better mean first."""

    places: tuple[Place, ...]
    pairs: tuple[Pair, ...]
    level: float
    seeds: int

    @property
    def told_apart(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.finding != Finding.OPEN)


def compare(
    values: Mapping[str, Sequence[float]],
    *,
    higher_is_better: bool = True,
    level: float = 0.95,
    baseline: str | None = None,
) -> Comparison:
    """Rank arms by their means over seeds. values: (K,) per arm, K >= 2, of the same seeds in the same order.

    baseline: compare the others with this arm alone, a smaller family of M - 1 instead of M (M - 1) / 2 comparisons.
    Fewer than `MINIMUM_SEEDS` seeds tell nothing apart.
    """
    _check(values, baseline)
    seeds = len(next(iter(values.values())))
    means = {arm: seed_interval(found, level) for arm, found in values.items()}
    sign = 1 if higher_is_better else -1
    order = sorted(values, key=lambda arm: -sign * means[arm].estimate)  # stable: the given order among equals
    chosen = [pair for pair in itertools.combinations(order, 2) if baseline is None or baseline in pair]
    least = _equal_p(values, chosen, level)
    adjusted = [max(least, p) for p in holm([paired_p(values[one], values[other]) for one, other in chosen])]
    pairs = []
    for (one, other), p in zip(chosen, adjusted, strict=True):
        difference = paired_difference(values[one], values[other], level)
        known = p <= 1 - level and seeds >= MINIMUM_SEEDS
        enough = None if known else seeds_needed(values[one], values[other], level, len(chosen))
        pairs.append(Pair(one, other, difference, p, Finding.BETTER if known else Finding.OPEN, enough))
    return Comparison(tuple(_places(order, means, pairs)), tuple(pairs), level, seeds)


def _equal_p(values: Mapping[str, Sequence[float]], chosen: Sequence[tuple[str, str]], level: float) -> float:
    """p of "all arms are equal"; 0 where there are too few arms and seeds to say."""
    numbers = np.asarray(list(values.values()), dtype=np.float64)
    if not reaches(len(values), numbers.shape[1], level):
        return 0.0
    place = {arm: index for index, arm in enumerate(values)}
    return exchange_p(numbers, [(place[one], place[other]) for one, other in chosen])


def _check(values: Mapping[str, Sequence[float]], baseline: str | None) -> None:
    sizes = {arm: len(found) for arm, found in values.items()}
    if len(values) < 2:
        raise ComparisonError(f"a comparison needs two arms or more, got {list(values)}")
    if len(set(sizes.values())) > 1:
        raise ComparisonError(
            f"arms are compared on the same seeds, but have {sizes}; leave out seeds that not all have"
        )
    if baseline is not None and baseline not in values:
        raise ComparisonError(f"the baseline {baseline!r} is not among the arms {list(values)}")


def _places(order: Sequence[str], means: Mapping[str, Interval], pairs: Sequence[Pair]) -> list[Place]:
    places = []
    for arm in order:
        better = sum(pair.second == arm for pair in pairs if pair.finding == Finding.BETTER)
        worse = sum(pair.first == arm for pair in pairs if pair.finding == Finding.BETTER)
        # Arms that were not compared (those beside a baseline) leave each other every place.
        places.append(Place(arm, means[arm], (1 + better, len(order) - worse)))
    return places


def paired_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of "no difference" over seeds: the paired t test.

    Differences that are all equal have no spread to judge them by. If they are 0, p is 1; otherwise the chance that K
    signs agree, 2^(1 - K), which assumes nothing but that both signs are as likely.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if np.ptp(difference) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max(), 1e-300):
        return 1.0 if abs(difference).max() <= 1e-12 * np.abs(first).max() else 2.0 ** (1 - difference.size)
    t = difference.mean() / difference.std(ddof=1) * math.sqrt(difference.size)
    return float(2 * scipy.special.stdtr(difference.size - 1, -abs(t)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: max over j <= i of min(1, (m - j + 1) p_(j)), for p_(1) <= p_(2) <= ..."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1)))
    return adjusted.tolist()


def seeds_needed(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, comparisons: int = 1
) -> int | None:
    """Seeds in all with which the paired t test at (1 - level) / comparisons finds, with probability `POWER`, a
    difference of the mean and deviation seen; at least one more than there are. None: more than `MOST_SEEDS`.

    The power of a t test is that of the noncentral t distribution with K - 1 degrees of freedom and noncentrality
    d sqrt(K) / s. What was seen of few seeds is itself uncertain, so this is an order of magnitude.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    spread, mean = float(difference.std(ddof=1)), abs(float(difference.mean()))
    if mean <= 1e-12 * float(np.abs(first).max()):
        return None
    fewest = max(MINIMUM_SEEDS, difference.size + 1)
    if spread <= 1e-12 * mean:
        return max(fewest, math.ceil(1 + math.log2(comparisons / (1 - level))))  # 2^(1 - K) as in `paired_p`
    alpha = (1 - level) / comparisons
    seeds = range(fewest, MOST_SEEDS + 1)
    # More seeds find more, so the first that do can be looked up.
    first_enough = bisect.bisect_left(seeds, POWER, key=lambda count: _power(mean / spread, count, alpha))
    return seeds[first_enough] if first_enough < len(seeds) else None


def detectable(seeds: int, level: float = 0.95, comparisons: int = 1) -> float:
    """Smallest difference, in standard deviations of the differences of seeds, that the paired t test at
    (1 - level) / comparisons finds with probability `POWER`; see `seeds_needed`."""
    alpha = (1 - level) / comparisons
    return float(scipy.optimize.brentq(lambda effect: _power(effect, seeds, alpha) - POWER, 1e-3, 1e3))


def _power(effect: float, seeds: int, alpha: float) -> float:
    """Chance that the two-sided paired t test at alpha finds a difference of `effect` standard deviations."""
    critical = scipy.stats.t.isf(alpha / 2, seeds - 1)
    # The other tail adds nothing where the power is near `POWER`. Beyond 37 it is 1, which scipy can not compute.
    return float(scipy.stats.nct.sf(critical, seeds - 1, min(effect * math.sqrt(seeds), 37.0)))
