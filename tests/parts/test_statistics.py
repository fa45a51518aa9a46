"""Intervals and verdicts: hand-worked numbers, enumeration, coverage by simulation, properties."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from policyopt.evaluation.statistics import (
    MINIMUM_SEEDS,
    Interval,
    TooFewSeedsError,
    Verdict,
    absolute_verdict,
    mean_interval,
    paired_difference,
    pass_at_k,
    proportion_interval,
    seed_interval,
    share_interval,
    verdict,
)


def student_quantile_two(p: float) -> float:
    """Closed form for 2 degrees of freedom."""
    return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))


def student_quantile_four(p: float) -> float:
    """Closed form for 4 degrees of freedom, p > 1/2."""
    root = math.sqrt(4 * p * (1 - p))
    return 2 * math.sqrt(math.cos(math.acos(root) / 3) / root - 1)


# --- Interval -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.953, 0.941, 0.964), "0.953 [0.941, 0.964]"),
        ((2e-5, 1e-5, 3e-5), "0.000020 [0.000010, 0.000030]"),
        ((2e-5, 2e-5, 2e-5), "0.000020 [0.000020, 0.000020]"),
        ((0.0, 0.0, 0.0), "0.000 [0.000, 0.000]"),
        ((-1e-9, -0.25, 0.25), "0.000 [-0.250, 0.250]"),
        ((0.5, -math.inf, math.inf), "0.500 [-inf, inf]"),
        ((1234.5, 1200.0, 1300.0), "1234.500 [1200.000, 1300.000]"),
    ],
)
def test_interval_prints_its_numbers(numbers: tuple[float, float, float], text: str) -> None:
    assert str(Interval(*numbers, 0.95)) == text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0.5, 0.6, 0.4, 0.95), "low <= high"),
        ((0.5, math.nan, 0.6, 0.95), "low <= high"),
        ((math.nan, 0.4, 0.6, 0.95), "finite"),
        ((0.5, 0.4, 0.6, 95), "level"),
        ((0.5, 0.4, 0.6, 0.95, -1), "seeds"),
    ],
)
def test_interval_refuses_impossible_fields(fields: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interval(*fields)


# --- pass@k ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", range(1, 7))
def test_pass_at_k_equals_the_share_of_subsets_with_a_correct_sample(samples: int) -> None:
    for k in range(1, samples + 1):
        expected = []
        for correct in range(samples + 1):
            outcomes = [True] * correct + [False] * (samples - correct)
            subsets = list(combinations(outcomes, k))
            expected.append(sum(any(subset) for subset in subsets) / len(subsets))
        found = pass_at_k(np.arange(samples + 1), samples, k)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_pass_at_k_hand_worked() -> None:
    # 1 - C(7, 2) / C(10, 2) = 1 - 21/45; none correct: 0; 9 of 10 correct: no pair of failures, 1.
    np.testing.assert_allclose(pass_at_k([3, 0, 9], 10, 2), [24 / 45, 0.0, 1.0], rtol=1e-15)


def test_pass_at_k_is_stable_where_binomials_overflow() -> None:
    samples, k = 5000, 2500  # C(5000, 2500) is about 1e1503
    counts = np.array([0, 1, 2, 7, 20, 2500, 2501, 5000])
    exact = [float(1 - Fraction(math.comb(samples - int(c), k), math.comb(samples, k))) for c in counts]
    np.testing.assert_allclose(pass_at_k(counts, samples, k), exact, rtol=1e-13)


def test_pass_at_k_is_unbiased() -> None:
    samples, k, chance = 6, 3, 0.2
    weights = stats.binom.pmf(np.arange(samples + 1), samples, chance)
    mean = float(weights @ pass_at_k(np.arange(samples + 1), samples, k))
    assert mean == pytest.approx(1 - (1 - chance) ** k, abs=1e-14)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_pass_at_k_is_monotone_in_k_and_correct(drawn: tuple[int, int]) -> None:
    samples, k = drawn
    here = pass_at_k(np.arange(samples + 1), samples, k)
    assert here[0] == 0.0
    assert here[-1] == 1.0
    assert np.all(np.diff(here) >= 0)
    if k > 1:
        assert np.all(here >= pass_at_k(np.arange(samples + 1), samples, k - 1))
    np.testing.assert_allclose(
        pass_at_k(np.arange(samples + 1), samples, 1), np.arange(samples + 1) / samples, atol=1e-13
    )


@pytest.mark.parametrize(
    ("correct", "samples", "k", "message"),
    [
        ([1], 4, 5, "k <= samples"),
        ([1], 4, 0, "1 <= k"),
        ([5], 4, 1, "0..samples=4"),
        ([-1], 4, 1, "0..samples=4"),
        ([0.5], 4, 1, "integers"),
        ([[1]], 4, 1, "integers"),
    ],
)
def test_pass_at_k_refuses(correct: list, samples: int, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(correct, samples, k)


# --- Wilson ---------------------------------------------------------------------------------------


def test_wilson_hand_worked() -> None:
    # 8 of 10, z = 1.959964: centre (0.8 + 0.19207295) / 1.3841459,
    # half z sqrt(0.016 + 0.00960365) / 1.3841459.
    interval = proportion_interval(8, 10)
    assert interval.estimate == 0.8
    assert interval.low == pytest.approx(0.490162, abs=1e-6)
    assert interval.high == pytest.approx(0.943318, abs=1e-6)
    assert interval.seeds == 0


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_bounds_solve_the_score_equation(drawn: tuple[int, int], level: float) -> None:
    successes, trials = drawn
    interval = proportion_interval(successes, trials, level)
    z_squared = stats.chi2.ppf(level, 1)
    for bound, edge in ((interval.low, 0), (interval.high, trials)):
        gap = (interval.estimate - bound) ** 2 * trials
        assert gap == pytest.approx(z_squared * bound * (1 - bound), rel=1e-6, abs=1e-9)
        if successes == edge:
            assert bound == edge / trials
    other = proportion_interval(trials - successes, trials, level)
    assert (1 - other.high, 1 - other.low) == pytest.approx((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize(("trials", "chance"), [(30, 0.5), (60, 0.9), (200, 0.97)])
def test_wilson_covers_at_its_level(trials: int, chance: float) -> None:
    intervals = [proportion_interval(successes, trials) for successes in range(trials + 1)]
    drawn = np.random.default_rng(3).binomial(trials, chance, size=20_000)
    covered = np.mean([intervals[successes].low <= chance <= intervals[successes].high for successes in drawn])
    assert 0.93 < covered < 0.975  # discrete: its exact coverage swings around 0.95


@pytest.mark.parametrize(("successes", "trials"), [(-1, 4), (5, 4), (0, 0)])
def test_wilson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes <= trials"):
        proportion_interval(successes, trials)


# --- bootstrap over tasks -------------------------------------------------------------------------


def independent_bca(values: np.ndarray, level: float, resamples: int) -> tuple[float, float]:
    """Efron's BCa for the mean, with the closed form of its acceleration: sum d^3 / (6 (sum d^2)^1.5)."""
    draws = np.random.default_rng(99).choice(values, size=(resamples, values.size))
    means = np.sort(draws.mean(axis=1))
    bias = stats.norm.ppf(np.mean(means < values.mean()))
    deviation = values - values.mean()
    acceleration = np.sum(deviation**3) / (6 * np.sum(deviation**2) ** 1.5)
    bounds = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shifted = bias + stats.norm.ppf(tail)
        bounds.append(np.quantile(means, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))))
    return bounds[0], bounds[1]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_mean_interval_is_bca(level: float) -> None:
    values = np.random.default_rng(5).lognormal(0.0, 1.2, size=25)
    interval = mean_interval(values, level, seed=1, resamples=40_000)
    expected = independent_bca(values, level, 40_000)
    error = values.std(ddof=1) / 5
    plain = np.quantile(
        np.random.default_rng(98).choice(values, size=(40_000, 25)).mean(axis=1),
        [(1 - level) / 2, (1 + level) / 2],
    )
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.level == level
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.06 * error)
    assert expected[1] - plain[1] > 0.12 * error  # so the line above tells BCa from the percentile interval


def test_mean_interval_repeats_with_its_seed_only() -> None:
    values = [0.1, 0.7, 0.4, 0.9, 0.0, 0.3]
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert mean_interval(values, seed=4) != mean_interval(values, seed=5)
    few, many = (mean_interval(values, seed=4, resamples=count) for count in (200, 20_000))
    assert few != many


def test_mean_interval_over_many_tasks_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=3000)
    interval = mean_interval(values, resamples=4000)
    half = 1.959964 * values.std(ddof=1) / math.sqrt(3000)
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert interval.seeds == 0


@pytest.mark.parametrize("tasks", [2, 7, 40])
def test_mean_interval_of_equal_outcomes_is_one_sided_and_exact(tasks: int) -> None:
    ones, zeros = mean_interval(np.ones(tasks)), mean_interval(np.zeros(tasks, dtype=int))
    assert (ones.estimate, ones.high) == (1.0, 1.0)
    assert ones.low == pytest.approx(0.025 ** (1 / tasks), rel=1e-9)
    assert (zeros.estimate, zeros.low) == (0.0, 0.0)
    assert zeros.high == pytest.approx(1 - 0.025 ** (1 / tasks), rel=1e-9)
    assert mean_interval([1 - 1e-15] + [1.0] * (tasks - 1)) == ones  # whichever comes first


@pytest.mark.parametrize("values", [[1.0], [0.0], [3.7], [0.5, 0.5, 0.5], [-2.0] * 9, [0.3, 0.1 + 0.2]])
def test_mean_interval_admits_ignorance(values: list[float]) -> None:
    interval = mean_interval(values)
    assert (interval.estimate, interval.low, interval.high) == (values[0], -math.inf, math.inf)


@pytest.mark.parametrize("values", [[1.0], [0.0], [0.7], [0.5, 0.5, 0.5]])
def test_share_interval_admits_ignorance_within_its_bounds(values: list[float]) -> None:
    """So it can be written down: JSON has no infinities."""
    interval = share_interval(values)
    assert (interval.estimate, interval.low, interval.high) == (values[0], 0.0, 1.0)


def test_share_interval_is_the_mean_interval_elsewhere() -> None:
    for values in ([0.2, 0.4, 0.9, 0.1], [1.0] * 8, [0.0] * 8):
        assert share_interval(values) == mean_interval(values)


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]], [0.1, math.nan], [0.1, math.inf]])
def test_mean_interval_refuses(values: list) -> None:
    with pytest.raises(ValueError, match="values must be"):
        mean_interval(values)


def test_mean_interval_refuses_options_out_of_range() -> None:
    with pytest.raises(ValueError, match="resamples"):
        mean_interval([0.1, 0.2], resamples=99)
    with pytest.raises(ValueError, match="level"):
        mean_interval([0.1, 0.2], level=1.0)


# --- intervals over seeds -------------------------------------------------------------------------


def test_paired_difference_hand_worked() -> None:
    # Differences 1, 2, 6: mean 3, squared deviations 4 + 1 + 9, s^2 = 7, so half = t sqrt(7/3).
    interval = paired_difference([11.0, 22.0, 36.0], [10.0, 20.0, 30.0])
    half = student_quantile_two(0.975) * math.sqrt(7 / 3)
    assert interval.estimate == pytest.approx(3.0)
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half), rel=1e-12)
    assert (interval.level, interval.seeds) == (0.95, 3)


def test_seed_interval_uses_its_level() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 10.0]  # mean 4, s^2 = 50/4, standard error sqrt(2.5)
    interval = seed_interval(values, level=0.8)
    half = student_quantile_four(0.9) * math.sqrt(2.5)
    assert (interval.low, interval.high) == pytest.approx((4 - half, 4 + half), rel=1e-12)
    assert interval.level == 0.8
    assert paired_difference(values, np.zeros(5), level=0.8) == interval


def test_seed_interval_of_equal_values_has_no_width() -> None:
    values = np.full(7, 0.1)  # their floating-point mean and deviation are not exactly 0.1 and 0
    interval = seed_interval(values)
    assert (interval.estimate, interval.low, interval.high, interval.seeds) == (0.1, 0.1, 0.1, 7)


@pytest.mark.parametrize("seeds", [2, 5, 12])
def test_paired_interval_covers_at_its_level(seeds: int) -> None:
    draws = np.random.default_rng(seeds)
    shared = draws.normal(0.0, 10.0, size=(2000, seeds))  # a seed moves both arms; pairing must remove it
    treated = shared + draws.normal(0.4, 1.0, size=shared.shape)
    intervals = [paired_difference(a, b) for a, b in zip(treated, shared, strict=True)]
    covered = np.mean([interval.low <= 0.4 <= interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))


@pytest.mark.parametrize(
    ("treated", "baseline", "message"),
    [
        ([1.0], [2.0], "at least 2"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "same seeds"),
        ([1.0, math.nan], [1.0, 2.0], "treated must be finite"),
        ([1.0, 2.0], [1.0, math.inf], "baseline must be finite"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "one-dimensional"),
    ],
)
def test_paired_difference_refuses(treated: list, baseline: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(treated, baseline)


# --- verdicts -------------------------------------------------------------------------------------


def over_seeds(low: float, high: float, seeds: int = MINIMUM_SEEDS) -> Interval:
    return Interval((low + high) / 2, low, high, 0.95, seeds)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 0.9, Verdict.SHOWN),  # the bar itself counts
        (0.5, 0.5, Verdict.SHOWN),
        (0.499, 0.9, Verdict.NOT_SHOWN),  # real, perhaps too small
        (0.1, 0.4, Verdict.NOT_SHOWN),  # real, surely too small
        (0.0, 0.0, Verdict.NOT_SHOWN),
        (-0.2, 0.9, Verdict.NOT_SHOWN),
        (-0.4, 0.0, Verdict.NOT_SHOWN),  # touches 0
        (-0.4, -0.001, Verdict.CONTRADICTED),
        (-math.inf, math.inf, Verdict.NOT_SHOWN),
    ],
)
def test_verdict_rule(low: float, high: float, expected: Verdict) -> None:
    interval = Interval(0.1, low, high, 0.95, MINIMUM_SEEDS)
    mirrored = Interval(-0.1, -high, -low, 0.95, MINIMUM_SEEDS)
    assert verdict(interval, 0.5, higher_is_better=True) is expected
    assert verdict(mirrored, 0.5, higher_is_better=False) is expected


def test_verdict_direction_matters() -> None:
    assert verdict(over_seeds(0.5, 0.9), 0.1, higher_is_better=False) is Verdict.CONTRADICTED
    assert verdict(over_seeds(-0.9, -0.5), 0.1, higher_is_better=False) is Verdict.SHOWN


def test_verdict_words() -> None:
    assert [str(each) for each in Verdict] == ["shown", "not shown", "contradicted", "unverified"]


@pytest.mark.parametrize("bar", [0.0, -0.1, math.nan, math.inf])
def test_verdict_refuses_an_effect_that_could_be_nothing(bar: float) -> None:
    with pytest.raises(ValueError, match="smallest_effect"):
        verdict(over_seeds(0.5, 0.9), bar, higher_is_better=True)


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_no_verdict_from_fewer_than_five_seeds(seeds: int) -> None:
    assert MINIMUM_SEEDS == 5
    for gap in (10.0, 0.0, -10.0):  # refused whatever the numbers say
        interval = paired_difference(np.arange(seeds) + gap, np.arange(seeds))
        for higher_is_better in (True, False):
            with pytest.raises(TooFewSeedsError, match="at least 5 seeds"):
                verdict(interval, 0.1, higher_is_better=higher_is_better)
            with pytest.raises(TooFewSeedsError, match="at least 5 seeds"):
                absolute_verdict(np.full(seeds, gap), 0.1, higher_is_better=higher_is_better)


def test_no_verdict_from_a_single_run() -> None:
    with pytest.raises(TooFewSeedsError):
        absolute_verdict([1.0], 0.1, higher_is_better=True)
    many_tasks = mean_interval(np.linspace(0.5, 0.9, 200), resamples=200)
    for interval in (many_tasks, proportion_interval(900, 1000), Interval(0.8, 0.7, 0.9, 0.95)):
        with pytest.raises(TooFewSeedsError, match="count no seeds"):
            verdict(interval, 0.1, higher_is_better=True)


def test_verdict_from_runs() -> None:
    baseline = np.array([0.1, 0.3, 0.2, 0.5, 0.4])
    gains = np.array([0.19, 0.21, 0.2, 0.22, 0.18])  # s^2 = 0.00025, standard error 0.00707, half 0.0196
    interval = paired_difference(baseline + gains, baseline)
    assert interval.low == pytest.approx(0.2 - student_quantile_four(0.975) * math.sqrt(0.00025 / 5), rel=1e-9)
    assert verdict(interval, 0.18, higher_is_better=True) is Verdict.SHOWN
    assert verdict(interval, 0.19, higher_is_better=True) is Verdict.NOT_SHOWN
    assert verdict(interval, 0.18, higher_is_better=False) is Verdict.CONTRADICTED


NUMBERS = st.floats(-100.0, 100.0)
ARMS = st.integers(MINIMUM_SEEDS, 9).flatmap(
    lambda count: st.tuples(*(st.lists(NUMBERS, min_size=count, max_size=count) for _ in range(2)))
)


@given(ARMS, st.floats(1e-3, 50.0), st.booleans(), NUMBERS)
def test_verdict_under_swapped_arms(
    arms: tuple[list[float], list[float]], bar: float, higher_is_better: bool, shift: float
) -> None:
    """Swapping arms and direction changes nothing; swapping arms alone turns shown into contradicted."""
    treated, baseline = np.array(arms[0]) + shift, np.array(arms[1])
    forward, backward = paired_difference(treated, baseline), paired_difference(baseline, treated)
    assert (backward.low, backward.high) == (-forward.high, -forward.low)
    here = verdict(forward, bar, higher_is_better=higher_is_better)
    swapped = verdict(backward, bar, higher_is_better=higher_is_better)
    assert verdict(backward, bar, higher_is_better=not higher_is_better) is here
    if here is Verdict.SHOWN:
        assert swapped is Verdict.CONTRADICTED
    against = -forward.high if higher_is_better else forward.low
    assert (swapped is Verdict.SHOWN) == (against >= bar)


@given(ARMS, st.floats(1e-3, 50.0), st.floats(1e-3, 50.0))
def test_a_higher_bar_never_helps(arms: tuple[list[float], list[float]], bar: float, more: float) -> None:
    interval = paired_difference(np.array(arms[0]) + 60, arms[1])
    if verdict(interval, bar + more, higher_is_better=True) is Verdict.SHOWN:
        assert verdict(interval, bar, higher_is_better=True) is Verdict.SHOWN


VALUES = [0.10, 0.12, 0.14, 0.11, 0.13]  # mean 0.12, s^2 = 0.00025, so [0.10037, 0.13963]


@pytest.mark.parametrize(
    ("threshold", "below", "above"),
    [
        (0.1397, Verdict.SHOWN, Verdict.CONTRADICTED),
        (0.1396, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (0.1004, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (0.1003, Verdict.CONTRADICTED, Verdict.SHOWN),
    ],
)
def test_absolute_verdict_hand_worked(threshold: float, below: Verdict, above: Verdict) -> None:
    assert absolute_verdict(VALUES, threshold, higher_is_better=False) is below
    assert absolute_verdict(VALUES, threshold, higher_is_better=True) is above


def test_absolute_verdict_edges() -> None:
    at_threshold = np.full(6, 0.25)
    assert absolute_verdict(at_threshold, 0.25, higher_is_better=True) is Verdict.SHOWN
    assert absolute_verdict(at_threshold, 0.25, higher_is_better=False) is Verdict.SHOWN
    # A lower level narrows the interval until 0.13 is outside it: t_0.6 with 4 degrees is 0.2707.
    assert absolute_verdict(VALUES, 0.13, higher_is_better=False) is Verdict.NOT_SHOWN
    assert absolute_verdict(VALUES, 0.13, higher_is_better=False, level=0.2) is Verdict.SHOWN
    with pytest.raises(ValueError, match="threshold"):
        absolute_verdict(VALUES, math.nan, higher_is_better=True)
    with pytest.raises(ValueError, match="values must be finite"):
        absolute_verdict([*VALUES, math.nan], 0.1, higher_is_better=True)


@given(st.lists(NUMBERS, min_size=MINIMUM_SEEDS, max_size=9), NUMBERS)
def test_absolute_verdict_is_mirrored_by_negation(values: list[float], threshold: float) -> None:
    interval = seed_interval(values)
    assume(threshold not in (interval.low, interval.high))
    above = absolute_verdict(values, threshold, higher_is_better=True)
    below = absolute_verdict(values, threshold, higher_is_better=False)
    assert absolute_verdict(-np.array(values), -threshold, higher_is_better=False) is above
    opposite = {Verdict.SHOWN: Verdict.CONTRADICTED, Verdict.CONTRADICTED: Verdict.SHOWN}
    assert below is opposite.get(above, Verdict.NOT_SHOWN)
