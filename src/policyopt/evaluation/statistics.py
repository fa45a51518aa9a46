"""Intervals for what a run measured, and the verdict that an interval supports.

Axis letters: `N` tasks, `S` seeds (independent training runs). Everything is a pure function of its arguments
and computes in float64. Questions that need different intervals are kept apart:

* `proportion_interval`, `mean_interval`, `share_interval`: one policy over a sample of tasks; silent about retraining.
* `seed_interval`, `paired_difference`: a method over seeds. Only these carry a seed count.
* `verdict`, `absolute_verdict`: what an interval over at least `MINIMUM_SEEDS` seeds allows us to claim.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import scipy  # its submodules are loaded where they are first used
from numpy.typing import ArrayLike, NDArray

MINIMUM_SEEDS = 5
"""Fewest seeds that can support a verdict."""

_BOOTSTRAP_BLOCK = 2_000_000
"""Most values held at once while resampling (16 MB), so that memory does not grow with tasks x resamples."""


class TooFewSeedsError(ValueError):
    """A verdict was asked of an interval that rests on fewer than `MINIMUM_SEEDS` seeds."""


class Verdict(StrEnum):
    """What was found out about a claim. No function here returns `UNVERIFIED`: it means "not run yet"."""

    SHOWN = "shown"
    NOT_SHOWN = "not shown"
    CONTRADICTED = "contradicted"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval.

    `low` and `high` may be infinite; `estimate` need not lie between them (a BCa interval of skewed values
    can exclude it). `seeds` counts the training runs the interval was computed over, and is 0 for an interval
    over tasks or trials, however many there are: that keeps `verdict` from being fed the tasks of one run.
    """

    estimate: float
    low: float
    high: float
    level: float
    seeds: int = 0

    def __post_init__(self) -> None:
        _check_level(self.level)
        if not math.isfinite(self.estimate):
            raise ValueError(f"an estimate must be finite, got {self.estimate}; leave unscored values out")
        if not self.low <= self.high:
            raise ValueError(f"an interval needs low <= high, got {self.low}, {self.high}; recompute it")
        if self.seeds < 0:
            raise ValueError(f"seeds must be at least 0, got {self.seeds}; omit it for an interval over tasks")

    def __str__(self) -> str:
        """`0.953 [0.941, 0.964]`: three decimals, more where two digits of the width need them."""
        width = self.high - self.low
        scale = width if 0 < width < math.inf else abs(self.estimate)
        decimals = 3 if scale == 0 else max(3, 1 - math.floor(math.log10(scale)))
        # "z" prints a rounded negative zero as zero.
        return f"{self.estimate:z.{decimals}f} [{self.low:z.{decimals}f}, {self.high:z.{decimals}f}]"


def pass_at_k(correct: Sequence[int] | NDArray[np.integer], samples: int, k: int) -> NDArray[np.float64]:
    """Unbiased estimate of the chance that at least one of k samples is correct, per task.

    pass@k = 1 - C(n - c, k) / C(n, k), Chen et al. 2021 (arXiv:2107.03374), eq. 1, with n = `samples` and
    c = `correct`. The ratio is built as prod_{i=0}^{c-1} (n - i - k) / (n - i), which can not overflow.

    Args:
        correct: (N,) integers in 0..samples, the number of correct samples per task.
        samples: samples drawn per task, the same for all tasks.
        k: attempts allowed, 1..samples.

    Returns:
        (N,) float64 in [0, 1].
    """
    counts = np.asarray(correct)
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(
            f"correct must be a (N,) array of integers, got shape {counts.shape} of {counts.dtype}; "
            "count the correct samples of each task first"
        )
    if not 1 <= k <= samples:
        raise ValueError(f"pass@k needs 1 <= k <= samples, got k={k}, samples={samples}; draw more samples")
    if counts.size and not (counts.min() >= 0 and counts.max() <= samples):
        raise ValueError(
            f"correct must lie in 0..samples={samples}, got {counts.min()}..{counts.max()}; "
            "tasks with different sample counts need a call each"
        )
    remaining = samples - np.arange(samples)  # n - i
    # The factor at n - i = k is exactly 0, so the product is 0 from there on, as is C(n - c, k).
    all_fail = np.concatenate([[1.0], np.cumprod((remaining - k) / remaining)])  # indexed by c
    return 1.0 - all_fail[counts]


def proportion_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (greedy accuracy: one attempt per task).

    The p with |p_hat - p| <= z sqrt(p (1 - p) / n), Wilson 1927 (JASA 22:209). It stays inside [0, 1] and
    keeps its width at 0 and n successes, where p_hat +- z sqrt(p_hat (1 - p_hat) / n) collapses to a point.
    """
    _check_level(level)
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(
            f"a proportion needs trials >= 1 and 0 <= successes <= trials, got {successes} of {trials}; "
            "count only the trials that were scored"
        )
    bounds = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(successes / trials, float(bounds.low), float(bounds.high), level)


def mean_interval(values: ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = 10_000) -> Interval:
    """Interval on the mean over tasks: BCa bootstrap, Efron 1987 (JASA 82:171). values (N,).

    Resampling equal values gives a width of zero, which would claim a certainty nobody has. Instead:

    * one value (N = 1): (-inf, inf), as one value says nothing about spread;
    * all 0 or all 1, N >= 2: taken as scores within [0, 1], exact Clopper-Pearson interval. It is one-sided,
      [(a/2)^(1/N), 1] or [0, 1 - (a/2)^(1/N)] with a = 1 - level; Wilson covers too little so near 0 and 1;
    * all equal to anything else: (-inf, inf), because the range of the unseen tasks is not known here.

    Values that differ by rounding only (1e-12 of the largest) count as equal. `seed` fixes the resamples.
    Errors: no values, a value that is not finite, fewer than 100 resamples.
    """
    _check_level(level)
    sample = _finite_vector("values", values, fewest=1)
    if resamples < 100:
        raise ValueError(f"a bootstrap needs at least 100 resamples, got {resamples}; the default is 10000")
    count, centre = sample.size, float(sample.mean())
    if count == 1 or np.ptp(sample) <= 1e-12 * np.abs(sample).max():
        return _constant_interval(float(sample[0]), count, level)
    bounds = scipy.stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BOOTSTRAP_BLOCK // count),
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(centre, float(bounds.low), float(bounds.high), level)


def share_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """`mean_interval` of numbers that lie in 0..1, such as shares and probabilities: where that knows nothing of the
    unseen tasks, all of 0..1."""
    found = mean_interval(values, level)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def seed_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student t interval on the mean over seeds: m +- t_{S-1} s / sqrt(S), s with S - 1. values (S,), S >= 2.

    Exact for any S if values are normal; a bootstrap of five points is far too narrow. Equal values give a
    width of zero. That is right for a deterministic outcome and wrong if the seed was never used, which can
    not be told apart from here.
    """
    _check_level(level)
    sample = _finite_vector("values", values, fewest=2)
    if np.all(sample == sample[0]):  # s is then rounding noise, or exactly 0
        return Interval(float(sample[0]), float(sample[0]), float(sample[0]), level, sample.size)
    centre = float(sample.mean())
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, sample.size - 1))
    half = quantile * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return Interval(centre, centre - half, centre + half, level, sample.size)


def paired_difference(treated: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> Interval:
    """Student t interval on the mean of treated - baseline, paired by seed (see `seed_interval`).

    Args:
        treated: (S,) one number per seed, S >= 2.
        baseline: (S,) the same seeds in the same order, run with an equal budget.
        level: confidence level.
    """
    first = _finite_vector("treated", treated, fewest=2)
    second = _finite_vector("baseline", baseline, fewest=2)
    if first.shape != second.shape:
        raise ValueError(
            f"paired arms need the same seeds, got {first.size} treated and {second.size} baseline values; "
            "keep the seeds both arms finished"
        )
    return seed_interval(first - second, level)


def verdict(interval: Interval, smallest_effect: float, *, higher_is_better: bool) -> Verdict:
    """What an interval on treated - baseline says about "treated is better by at least `smallest_effect`".

    Let [l, h] be the interval of the signed effect: [low, high] if higher is better, else [-high, -low].

    * shown        iff l >= smallest_effect;
    * contradicted iff h < 0;
    * not shown    otherwise, which includes a real effect too small to count and an interval that touches 0.

    The two exclude each other as smallest_effect > 0, and are not mirror images: swapping the arms turns
    shown into contradicted, but contradicted into shown only where -h >= smallest_effect. Comparisons are
    exact, so an effect a rounding error short of the bar is not shown.

    Raises:
        TooFewSeedsError: the interval rests on fewer than `MINIMUM_SEEDS` seeds, or is not over seeds at all.
        ValueError: smallest_effect is not finite and above 0.
    """
    if not 0 < smallest_effect < math.inf:
        raise ValueError(
            f"smallest_effect must be finite and above 0, got {smallest_effect}; "
            "name the difference that would matter, and give the direction by higher_is_better"
        )
    return _judge(interval, smallest_effect, 0.0, higher_is_better=higher_is_better)


def absolute_verdict(values: ArrayLike, threshold: float, *, higher_is_better: bool, level: float = 0.95) -> Verdict:
    """What values (S,) say about "the mean is at least `threshold`", or at most it where lower is better.

    With [l, h] = `seed_interval(values, level)`, where higher is better: shown iff l >= threshold,
    contradicted iff h < threshold, else not shown. Where lower is better: shown iff h <= threshold,
    contradicted iff l > threshold, else not shown.

    Raises:
        TooFewSeedsError: fewer than `MINIMUM_SEEDS` values.
        ValueError: threshold or a value is not finite.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}; name the level the claim is about")
    sample = _finite_vector("values", values, fewest=0)
    _check_seeds(sample.size)
    bar = threshold if higher_is_better else -threshold
    return _judge(seed_interval(sample, level), bar, bar, higher_is_better=higher_is_better)


def _judge(interval: Interval, shown_from: float, contradicted_below: float, *, higher_is_better: bool) -> Verdict:
    """The rule both verdicts share, bars in signed units (negated where lower is better)."""
    _check_seeds(interval.seeds)
    low, high = (interval.low, interval.high) if higher_is_better else (-interval.high, -interval.low)
    if low >= shown_from:
        return Verdict.SHOWN
    if high < contradicted_below:
        return Verdict.CONTRADICTED
    return Verdict.NOT_SHOWN


def _constant_interval(value: float, count: int, level: float) -> Interval:
    """The interval `mean_interval` documents for `count` equal values."""
    if math.isclose(value, 1.0, rel_tol=1e-12):  # pass@k with few failures comes within rounding of 1
        value = 1.0
    if count == 1 or value not in (0.0, 1.0):
        return Interval(value, -math.inf, math.inf, level)
    bounds = scipy.stats.binomtest(round(value) * count, count).proportion_ci(level, method="exact")
    return Interval(value, float(bounds.low), float(bounds.high), level)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}; 95 percent is 0.95")


def _check_seeds(seeds: int) -> None:
    if seeds < MINIMUM_SEEDS:
        raise TooFewSeedsError(
            f"a verdict needs an interval over at least {MINIMUM_SEEDS} seeds, got {seeds}; "
            "run more seeds, and use paired_difference (intervals over tasks or trials count no seeds)"
        )


def _finite_vector(name: str, values: ArrayLike, fewest: int) -> NDArray[np.float64]:
    """`values` as (size,) float64, refused if of another rank, shorter than `fewest` or not finite."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size < fewest:
        raise ValueError(
            f"{name} must be one-dimensional with at least {fewest} values, got shape {vector.shape}; "
            "reduce to one number per task or seed first"
        )
    if not np.all(np.isfinite(vector)):
        bad = np.flatnonzero(~np.isfinite(vector))
        raise ValueError(
            f"{name} must be finite, got {vector[bad[0]]} at index {bad[0]} ({bad.size} of {vector.size}); "
            "an unscored task or a failed run is not a value: leave it out of both arms"
        )
    return vector
