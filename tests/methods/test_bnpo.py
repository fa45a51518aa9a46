"""BNPO: `reduces_to` of specification 52, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.credit.beta import BetaNormalised, fitted, log_density
from policyopt.credit.groups import GroupCentred, GroupStandardised
from policyopt.methods import load
from support import close, context, grid, grids, method, on_ranks, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

RIGHT = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
GROUPS = [1, 1, 1, 2, 2, 2, 2, 2]


def eight(rewards=RIGHT, groups=GROUPS):
    return rewarded(with_row(ragged((1, 2, 7, 13, 3, 5, 4, 2)), group=groups), rewards)


def advantage(part, batch):
    return part(context(method(), grids()), batch).step["advantage"]


def test_exponents_of_one_are_the_centred_advantage() -> None:
    close(advantage(BetaNormalised(1.0, 1.0), eight()), advantage(GroupCentred(), eight()))


def test_exponents_of_three_halves_are_pi_over_eight_times_grpo() -> None:
    """f(p) = (8 / pi) sqrt(p (1 - p)), the population deviation of binary rewards but for the factor."""
    grpo = GroupStandardised(epsilon=0.0, ddof=0)
    close(advantage(BetaNormalised(1.5, 1.5), eight()), math.pi / 8 * advantage(grpo, eight()))
    made, batch = load("bnpo"), with_row(ragged((1, 2, 7, 13, 3, 5, 4, 2)), group=GROUPS)
    found = first_step(replace(made, credit=BetaNormalised(1.5, 1.5)), {"policy": grid(0)}, batch, Grades(RIGHT))
    expected = first_step(replace(made, credit=grpo), {"policy": grid(0)}, batch, Grades(RIGHT))
    assert float(expected.gradient.abs().max()) > 0.1
    close(found.gradient, math.pi / 8 * expected.gradient)


def test_exponents_follow_the_moments_by_hand() -> None:
    """Rates 1/4 and 3/4: mean 1/2, sample variance 1/8, a = b = (2 - 1) / 2 = 1/2, so 1 + 1/6. Rates spread as far as
    they can be give negative numbers and so 1."""
    alpha, beta = fitted(torch.tensor([0.25, 0.75]))
    close(torch.stack([alpha, beta]), [1 + 1 / 6, 1 + 1 / 6])
    close(torch.stack(fitted(torch.tensor([0.0, 1.0]))), [1.0, 1.0])
    for alike in ([0.3], [0.3, 0.3, 0.3]):
        close(torch.stack(fitted(torch.tensor(alike))), [1.0, 1.0])


def test_groups_count_once_however_many_rows_they_have() -> None:
    """Rates 1/3 and 4/5, not weighted by 3 and 5: mean 17/30, variance 49/450, so a + b = 221/98 - 1 = 123/98."""
    alpha, beta = 1 + 123 / 98 * 17 / 30 / 3, 1 + 123 / 98 * 13 / 30 / 3
    close(advantage(BetaNormalised(), eight()), advantage(BetaNormalised(alpha, beta), eight()))
    assert alpha == pytest.approx(1.237, abs=1e-3)


def test_the_exponents_are_those_of_all_ranks() -> None:
    rates = torch.tensor([0.1, 0.4, 0.7, 0.2, 0.9])
    whole = torch.stack(fitted(rates))
    for found in on_ranks(2, lambda rank, total: torch.stack(fitted(rates[:2] if rank else rates[2:], total))):
        close(found, whole)


@given(st.floats(1.0, 6.0), st.floats(1.0, 6.0))
def test_the_density_integrates_to_one(alpha: float, beta: float) -> None:
    p = (torch.arange(4000) + 0.5) / 4000
    close(log_density(p, torch.tensor(alpha), torch.tensor(beta)).exp().mean(), 1.0, 1e-3)


def test_among_densities_the_fitted_one_has_the_least_mean_square() -> None:
    """E[A^2] = integral of p (1 - p) / f^2 over p from the Beta distribution itself, at midpoints: numbers of the
    specification."""
    p = (torch.arange(40000) + 0.5) / 40000
    one = torch.ones(())
    for a, b, bnpo, none in ((1.0, 9.0, 0.021, 0.082), (2.0, 2.0, 0.152, 0.2), (5.0, 1.5, 0.078, 0.154)):
        drawn = log_density(p, one * a, one * b).exp()

        def mean_square(alpha: float, beta: float, drawn=drawn) -> float:
            density = log_density(p, one * alpha, one * beta).exp()
            return float((drawn * p * (1 - p) / density**2).mean())

        found = mean_square(1 + a / 3, 1 + b / 3)
        close(found, bnpo, 1e-3)
        close(mean_square(1.0, 1.0), none, 1e-3)
        close(mean_square(1.5, 1.5), 0.154, 1e-3)
        assert found < min(mean_square(1.5, 1.5), mean_square(1.0, 1.0), mean_square(1 + a / 2, 1 + b / 3))


def test_groups_of_one_kind_and_single_rows_have_no_advantage() -> None:
    batch = eight([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.5], [1, 1, 1, 2, 2, 2, 2, 3])
    found = advantage(BetaNormalised(), batch)
    close(found[:3], torch.zeros(3, 13))
    close(found[7], torch.zeros(13))
    assert float(found[3].abs().max()) > 0
    with pytest.raises(CompositionError, match="low < high"):
        BetaNormalised(low=1.0)
