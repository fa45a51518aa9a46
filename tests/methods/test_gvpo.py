"""GVPO: `reduces_to` of specification 83, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Role
from policyopt.methods import load
from policyopt.objective.implicit import ImplicitRegression
from policyopt.policies.tabular import Table
from policyopt.worlds.sequences import bandit
from support import close, context, full_step, grid, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]
BETA = 0.3


def stepped(batch, models=None, loss=None):
    (term,) = load("gvpo").objective
    return full_step(context(method(replace(term, loss=loss or ImplicitRegression(BETA))), models or grids()), batch)


def test_at_the_anchor_it_is_beta_times_rloo() -> None:
    """-beta G / (G - 1) mean_i (R_i - mean R) grad sum_t log pi_i."""
    made = load("gvpo")
    rloo = replace(load("rloo"), reward=made.reward, roles=made.roles, models={})
    found = first_step(made, {"policy": grid(0)}, ragged(), Grades(GRADES)).gradient
    expected = first_step(rloo, {"policy": grid(0)}, ragged(), Grades(GRADES)).gradient
    assert float(expected.abs().max()) > 0.1
    close(found, 0.1 * expected)


def test_gradient_off_the_anchor_in_full() -> None:
    """-beta / (G - 1) sum_i ((R_i - mean R) - (d_i - mean d)) grad sum_t log pi_i, mean over ragged groups."""
    batch = with_row(ragged((1, 2, 7, 13, 3)), group=(7, 3, 7, 3, 7))
    batch, models = rewarded(batch, [1.0, 0.0, -2.0, 0.5, 0.25]), grids()
    value, gradient = stepped(batch, models)
    change = torch.where(batch.trained, (models["policy"].logp - models["old"].logp)[:5, :13], 0.0).detach().sum(1)
    expected, total = torch.zeros(5), 0.0
    for rows in ([0, 2, 4], [1, 3]):
        d, r = BETA * change[rows], batch.step["reward"].sum(1)[rows]
        error = (r - r.mean()) - (d - d.mean())
        expected[rows] = -BETA * error / (len(rows) - 1) / 2
        total += float((error**2).sum() / 2 / (len(rows) - 1) / 2)
    close(value, total)
    close(gradient[:5, :13], torch.where(batch.trained, expected[:, None], 0.0))


def test_of_groups_of_two_it_is_the_squared_difference() -> None:
    """1/4 ((d_1 - d_2) - (R_1 - R_2))^2."""
    batch, models = rewarded(ragged(), GRADES), grids()
    d = BETA * torch.where(batch.trained, (models["policy"].logp - models["old"].logp)[:4, :13], 0.0).sum(1).detach()
    pairs = [((d[0] - d[2]) - (0.5 + 1.0)) ** 2 / 4, ((d[1] - d[3]) - (2.0 - 4.0)) ** 2 / 4]
    close(stepped(batch, models)[0], sum(pairs) / 2)


def test_groups_of_one_are_skipped() -> None:
    batch = with_row(ragged((1, 2, 7)), group=(1, 1, 2))
    batch = rewarded(batch, [1.0, 0.0, 9.0])
    value, gradient = stepped(batch)
    alone, slope = stepped(batch[:2])
    close(value, alone)
    close(gradient, slope)
    assert float(stepped(batch[2:])[0]) == 0.0


@given(st.integers(0, 30), st.sampled_from([0.2, 0.5, 2.0]))
def test_the_only_minimum_is_the_tilted_anchor_whoever_sampled(seed: int, beta: float) -> None:
    """anchor exp(R / beta) / Z: loss and gradient 0 there, on rows with any weights."""
    worth, start = numbers(2, 5, seed=seed), numbers(2, 5, seed=seed + 1)
    world = bandit(worth)
    choice = torch.tensor([0, 1, 2, 3, 4, 4, 1, 1])
    rows = world.complete(world.tasks(torch.tensor([0] * 5 + [1] * 3)), choice[:, None])
    rows = rows.with_rows({"group": rows.row["task"]}).with_steps({"reward": world.grade(rows)[:, None]})
    (term,) = load("gvpo").objective
    made = method(replace(term, loss=ImplicitRegression(beta, "reference")), roles={"reference": Role("reference")})
    best = start.log_softmax(-1) + worth / beta
    for logits, there in ((best, True), (start, False)):
        models = {"policy": Table(logits), "reference": Table(start)}
        value, gradient = full_step(context(made, models), rows)
        assert (float(value) < 1e-20) == there
        assert (float(gradient.abs().max()) < 1e-10) == there


def test_nothing_is_divided_by_the_spread_of_rewards() -> None:
    """At the anchor the gradient is linear in the rewards."""
    models = grids()
    models["old"] = models["policy"]
    one, two = (stepped(rewarded(ragged(), scale * torch.tensor(GRADES)), models)[1] for scale in (1.0, 2.0))
    close(two, 2 * one)
