"""DRPO: `reduces_to` of specification 15, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import CompositionError, Term
from policyopt.constraint.hinge import DriftFromOld, SquaredHinge
from policyopt.methods import load
from policyopt.objective.implicit import DiscriminativeScores, Shortness
from policyopt.ops.comparisons import group_log_mean_exp, group_share
from policyopt.update.averaging import TokenMean
from support import close, context, full_step, grid, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

RIGHT = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
GROUPS = (7, 3, 7, 3, 7, 3)
LENGTHS = (1, 2, 7, 13, 3, 5)


def six(rewards=RIGHT, groups=GROUPS):
    return rewarded(with_row(ragged(LENGTHS), group=groups), rewards)


def stepped(loss, batch, models=None):
    return full_step(context(method(replace(load("drpo").objective[0], loss=loss)), models or grids()), batch)


def test_alike_weights_and_a_mean_give_the_difference_of_class_means() -> None:
    """sharpness and temperature to infinity: minus mean_right grad s plus mean_wrong grad s, mean over prompts."""
    batch = six()
    _, gradient = stepped(DiscriminativeScores(sharpness=math.inf, temperature=math.inf), batch)
    count, length = torch.tensor([2, 2, 1, 1, 2, 2]), batch.trained.sum(1)
    expected = torch.where(torch.tensor(RIGHT) > 0, -1.0, 1.0) / count / length / 2
    close(gradient[:6, :13], torch.where(batch.trained, expected[:, None], 0.0))
    large = stepped(DiscriminativeScores(sharpness=1e9, temperature=1e6), batch)[1]
    close(large, gradient, 1e-6)


def test_right_rows_share_a_weight_of_one_and_are_never_pushed_down() -> None:
    """For any length and sharpness; the softmax of shortness by hand."""
    batch = six()
    for sharpness in (1e-3, 0.1, 10.0):
        _, gradient = stepped(DiscriminativeScores(bonus=Shortness(20), sharpness=sharpness), batch)
        coefficient = torch.where(batch.trained, gradient[:6, :13], 0.0).sum(1) * 2
        right = torch.tensor(RIGHT) > 0
        assert bool((coefficient[right] <= 0).all())
        close(coefficient[[0, 4]].sum(), -1.0)
        close(coefficient[3], -1.0)
        close(coefficient[0] / coefficient[4], math.exp((3 - 1) / 20 / sharpness), 1e-6 * math.exp(0.1 / sharpness))


def test_likely_wrong_rows_weigh_more() -> None:
    """The derivative of the soft maximum is a softmax of the wrong rows' scores."""
    batch, models = six(), grids()
    _, gradient = stepped(DiscriminativeScores(temperature=0.3), batch, models)
    score = (torch.where(batch.trained, models["policy"].logp[:6, :13], 0.0).sum(1) / batch.trained.sum(1)).detach()
    found = gradient[[1, 5], :13].sum(1) * 2
    close(found, torch.softmax(score[[1, 5]] / 0.3, 0))


def test_prompts_of_one_kind_stay_in_the_denominator() -> None:
    batch = six([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    value, gradient = stepped(DiscriminativeScores(), batch)
    alone, slope = stepped(DiscriminativeScores(), batch[torch.tensor([0, 2, 4])])
    close(value, alone / 2)
    close(gradient, slope / 2)


def test_the_penalty_has_the_gradient_of_a_squared_hinge() -> None:
    """(beta / 2) max(K - delta, 0)^2, K over all trained tokens; below the limit nothing."""
    batch, models = ragged(), grids()
    for limit in (0.001, 5.0):
        term = Term("change", DriftFromOld(), TokenMean(), weight=SquaredHinge(3.0, limit))
        with torch.no_grad():
            models["old"].logp.copy_(models["policy"].logp + 0.1 + numbers(8, 104, seed=3, scale=0.05))
        _, gradient = full_step(context(method(term), models), batch)
        logp = models["policy"].logp.detach().clone().requires_grad_()
        drift = torch.where(batch.trained, (models["old"].logp - logp)[:4, :13], 0.0).sum() / batch.trained.sum()
        (expected,) = torch.autograd.grad(1.5 * (drift - limit).clamp(min=0) ** 2, logp)
        close(gradient, expected)
        assert (float(expected.abs().max()) > 0) == (limit < 1)


def test_the_first_step_of_the_method_has_no_penalty() -> None:
    batch = with_row(ragged(LENGTHS), group=GROUPS)
    found = first_step(load("drpo"), {"policy": grid(0)}, batch, Grades(RIGHT))
    plain = first_step(replace(load("drpo"), constraint=()), {"policy": grid(0)}, batch, Grades(RIGHT))
    assert float(found.gradient.abs().max()) > 1e-2
    close(found.gradient, plain.gradient)


@given(st.integers(0, 50), st.sampled_from([0.01, 1.0, 30.0]))
def test_soft_maxima_and_shares_are_stable_and_ragged(seed: int, temperature: float) -> None:
    x, ids = 100 * numbers(9, seed=seed), torch.tensor([4, 2, 2, 4, 4, 9, 2, 4, 9])
    valid = torch.tensor([1, 1, 0, 1, 1, 0, 1, 0, 0]).bool()
    found, share = group_log_mean_exp(x, ids, valid, temperature), group_share(x / temperature, ids, valid)
    for group in (2, 4):
        rows = valid & (ids == group)
        expected = temperature * (torch.logsumexp(x[rows] / temperature, 0) - math.log(int(rows.sum())))
        close(found[ids == group], expected.expand(int((ids == group).sum())), 1e-9)
        close(share[rows], torch.softmax(x[rows] / temperature, 0))
    close(found[ids == 9], torch.zeros(2))
    close(share[~valid], torch.zeros(4))


def test_options_out_of_range_are_refused() -> None:
    for make in (
        lambda: DiscriminativeScores(temperature=0.0),
        lambda: DiscriminativeScores(sharpness=-1.0),
        lambda: SquaredHinge(scale=0.0),
        lambda: DriftFromOld("k7"),
        lambda: Shortness(0),
    ):
        with pytest.raises(CompositionError):
            make()
