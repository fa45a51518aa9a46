"""CoPG: `reduces_to` of specification 131, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.methods import load
from policyopt.objective.implicit import ImplicitRegression
from support import close, context, full_step, grid, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

BETA = 0.4
REWARDS = [0.5, 2.0, -1.0, 4.0]


def stepped(batch, models, loss=None):
    (term,) = load("copg").objective
    term = replace(term, loss=loss or ImplicitRegression(BETA, "reference", pairs=True))
    return full_step(context(method(term), models), batch)


def change(batch, models):
    gap = models["policy"].logp[: len(batch), : batch.steps] - models["reference"].logp[: len(batch), : batch.steps]
    return torch.where(batch.trained, gap, 0.0).sum(1)


def test_the_gradient_is_the_contrastive_one() -> None:
    """sg(R_b(y) - R_b(y')) grad log pi(y) + sg(R_b(y') - R_b(y)) grad log pi(y'), R_b = R - beta log-ratio."""
    batch, models = rewarded(ragged(), REWARDS), grids()
    regularised = (torch.tensor(REWARDS) - BETA * change(batch, models)).detach()
    value, gradient = stepped(batch, models)
    expected = torch.zeros(4)
    for first, second in ((0, 2), (1, 3)):
        gap = regularised[first] - regularised[second]
        expected[first], expected[second] = -gap / 2, gap / 2  # minus, and a mean over two pairs
    close(gradient[:4, :13], torch.where(batch.trained, expected[:, None], 0.0))
    pairs = [(regularised[0] - regularised[2]) ** 2, (regularised[1] - regularised[3]) ** 2]
    close(value, sum(pairs) / (2 * BETA) / 2)


def test_at_the_reference_it_is_twice_rloo_of_two() -> None:
    """With the reference as policy the regularised reward is the reward."""
    found = first_step(load("copg"), {"policy": grid(0)}, ragged(), Grades(REWARDS)).gradient
    made = load("rloo")
    plain = replace(made, reward=load("copg").reward, roles={"old": made.roles["old"]}, models={})
    expected = first_step(plain, {"policy": grid(0)}, ragged(), Grades(REWARDS)).gradient
    assert float(expected.abs().max()) > 0.1
    close(found, 2 * expected)


def test_rewards_of_plus_and_minus_a_half_make_it_ipo() -> None:
    """(log-ratio of the preferred less that of the other - 1 / beta)^2 beta / 2."""
    batch, models = rewarded(ragged(), [0.5, -0.5, -0.5, 0.5]), grids()
    rho = change(batch, models).detach()
    margin = torch.stack([rho[0] - rho[2], rho[3] - rho[1]])
    close(stepped(batch, models)[0], (BETA / 2 * (margin - 1 / BETA) ** 2).mean())


def test_of_k_samples_it_is_k_over_beta_times_gvpo() -> None:
    batch = with_row(ragged((1, 2, 7, 13, 3, 5)), group=(1, 1, 1, 1, 1, 1))
    batch, models = rewarded(batch, [0.5, 2.0, -1.0, 4.0, 0.0, 1.0]), grids()
    value, gradient = stepped(batch, models)
    other, slope = stepped(batch, models, ImplicitRegression(BETA, "reference"))
    close(value, 6 / BETA * other)
    close(gradient, 6 / BETA * slope)
    regularised = (batch.step["reward"].sum(1) - BETA * change(batch, models)).detach()
    pairs = sum((regularised[i] - regularised[j]) ** 2 for i in range(6) for j in range(i))
    close(value, pairs / (2 * BETA * 5))


def test_a_constant_of_the_task_changes_nothing() -> None:
    models = grids()
    plain = stepped(rewarded(ragged(), REWARDS), models)
    shifted = stepped(rewarded(ragged(), [10.5, -3.0, 9.0, -1.0]), models)
    close(shifted[0], plain[0])
    close(shifted[1], plain[1])
