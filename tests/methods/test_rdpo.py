"""rDPO: `reduces_to` of specification 244."""

import math

import pytest
import torch
from torch import Tensor

from enumeration import first_step
from policyopt.methods import load
from policyopt.ops.links import preferred
from policyopt.options import override
from support import close, grid, grids, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def robust(delta: Tensor, rate: float) -> Tensor:
    return preferred(delta, "logistic", rate, unbiased=True)


def test_without_flips_it_is_dpo() -> None:
    rdpo = override(load("rdpo"), {"objective.wrong": 0.0})
    close(first_step(rdpo, grids(), ragged()).gradient, first_step(load("dpo"), grids(), ragged()).gradient)


def test_the_mean_over_flips_is_the_clean_loss() -> None:
    delta = numbers(9, seed=1, scale=3.0)
    for rate in (0.1, 0.3, 0.45):
        mean = (1 - rate) * robust(delta, rate) + rate * robust(-delta, rate)
        close(mean, torch.nn.functional.softplus(-delta))


def test_the_mean_over_flipped_pairs_has_the_gradient_of_dpo() -> None:
    """The whole method, on pairs as they are and turned round."""
    made, batch = override(load("rdpo"), {"objective.wrong": 0.3}), ragged()
    turned = with_row(batch, rank=[1, 1, 0, 0])
    mean = 0.7 * first_step(made, grids(), batch).gradient + 0.3 * first_step(made, grids(), turned).gradient
    close(mean, first_step(load("dpo"), grids(), batch).gradient)


def test_at_the_reference_it_is_log_two_for_every_rate() -> None:
    for rate in (0.0, 0.2, 0.49):
        made = override(load("rdpo"), {"objective.wrong": rate})
        done = first_step(made, {"policy": grid(0)}, ragged())
        close(done.round.metrics["loss/preference"], math.log(2))


def test_the_gradient_weight_is_the_stated_one() -> None:
    beta, rate, delta = 0.7, 0.2, numbers(6, seed=2).requires_grad_()
    (slope,) = torch.autograd.grad(robust(beta * delta, rate).sum(), delta)
    weight = (1 - rate) * torch.sigmoid(-beta * delta) + rate * torch.sigmoid(beta * delta)
    close(slope, -beta * weight / (1 - 2 * rate))


def test_it_has_no_lower_bound_where_smoothing_has_a_minimum() -> None:
    wide = torch.tensor([5.0, 50.0, 500.0])
    assert robust(wide, 0.2)[-1] < -100
    smooth = preferred(wide, "logistic", 0.2)
    assert bool((smooth.diff() > 0).all())
    close(preferred(torch.tensor(math.log(4.0)), "logistic", 0.2), -0.8 * math.log(0.8) - 0.2 * math.log(0.2))
