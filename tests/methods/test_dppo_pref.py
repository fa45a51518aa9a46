"""DPPO: `reduces_to` of specification 89."""

import math

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.methods import load
from policyopt.options import override
from ranked_rows import Actor
from support import close, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

WORTH = [0.4, 0.1, 0.9, 0.1]
ORDER = [(2, 0), (2, 1), (2, 3), (0, 1), (0, 3)]
"""Rows 1 and 3 are equal, so no pair."""


def policy():
    return {"policy": Actor(values=numbers(8, 13, 2, seed=5))}


def gradient_of(lam: float, worth=None, **given):
    batch = ragged().with_steps({"_action": numbers(4, 13, 2, seed=6)})
    made = override(load("dppo_pref"), {"objective.rejected": lam, **given})
    return first_step(made, policy(), batch, Grades(worth or WORTH))


def distances():
    """d (B,) by loops at temperature 0.1 and a span of 2, differentiable."""
    would, did, batch = numbers(8, 13, 2, seed=5).requires_grad_(), numbers(4, 13, 2, seed=6), ragged()
    found = []
    for b in range(4):
        steps = batch.trained[b].nonzero()[:, 0]
        found.append(torch.stack([(would[b, t] - did[b, t]).norm() for t in steps]).mean() / 0.2)
    return torch.stack(found), would


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_every_pair_of_the_round_in_order(lam) -> None:
    d, would = distances()
    loss = torch.stack([torch.nn.functional.softplus(d[i] - lam * d[j]) for i, j in ORDER]).mean()
    done = gradient_of(lam)
    close(done.round.metrics["loss/preference"], loss)
    close(done.gradient, torch.autograd.grad(loss, would)[0])


def test_with_lambda_0_only_attraction_is_left() -> None:
    """The gradient of the worst rows is 0."""
    found = gradient_of(0.0).gradient
    close(found[[1, 3]], torch.zeros(2, 13, 2))
    assert float(found[2].abs().max()) > 0


def test_with_lambda_1_it_is_bradley_terry_on_distances() -> None:
    d, _ = distances()
    chance = torch.exp(-d[2]) / (torch.exp(-d[2]) + torch.exp(-d[0]))
    close(gradient_of(1.0, [0.0, math.nan, 1.0, math.nan]).round.metrics["loss/preference"], -chance.log())


def test_without_any_order_nothing_is_learned() -> None:
    found = gradient_of(1.0, [0.5] * 4).gradient
    close(found, torch.zeros_like(found))


def test_the_grouping_of_rows_does_not_matter() -> None:
    batch = ragged().with_steps({"_action": numbers(4, 13, 2, seed=6)})
    apart = with_row(batch, group=[3, 1, 4, 2])
    done = first_step(load("dppo_pref"), policy(), apart, Grades(WORTH))
    close(done.gradient, gradient_of(1.0).gradient)
