"""GRAO: `reduces_to` of specification 17, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.compose import Program, Stage
from policyopt.credit.given import OnOwnScale
from policyopt.credit.groups import GroupStandardised
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, grid, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GIVEN = int(Source.DATASET)
BETA, LAMBDA = 0.3, 0.7
GRADES = [0.5, 2.0, -1.0, 4.0, 0.25, 1.0, 3.0, 2.5]


def eight():
    """Two groups of three own rows and a reference."""
    batch = ragged((1, 2, 7, 13, 3, 5, 4, 2))
    return with_row(batch, group=(1, 2) * 4, source=[0] * 6 + [GIVEN] * 2)


def made(beta=BETA, lam=LAMBDA):
    grao = load("grao")
    own, reference = grao.objective
    return replace(grao, objective=(replace(own, weight=1 + lam), replace(reference, weight=beta)))


def test_two_terms_are_the_objective_of_three() -> None:
    """J = mean_i [A_i J_e(i) + beta A_y J_y + lambda A_i (J_e(i) - J_y)], mean over prompts."""
    batch, model = eight(), grid(0)
    logp = model.logp.detach().clone().requires_grad_()
    mean = (torch.where(batch.trained, logp[:8, :13], 0.0).sum(1)) / batch.trained.sum(1)
    goal = torch.zeros(())
    for own, reference in (([0, 2, 4], 6), ([1, 3, 5], 7)):
        r = torch.tensor(GRADES)[own]
        mu, sigma = r.mean(), r.std(correction=0)
        a, a_y = (r - mu) / (sigma + 1e-6), (GRADES[reference] - mu) / (sigma + 1e-6)
        assert abs(float(a_y)) < 5
        three = a * mean[own] + BETA * a_y * mean[reference] + LAMBDA * a * (mean[own] - mean[reference])
        goal = goal + three.mean() / 2
    (expected,) = torch.autograd.grad(-goal, logp)
    found = first_step(made(), {"policy": model}, batch, Grades(GRADES)).gradient
    assert float(expected.abs().max()) > 1e-2
    close(found, expected)


def test_without_reference_and_alignment_it_is_on_policy_grpo() -> None:
    """Sequence-mean aggregation, population deviation; the reference row is not trained on and not in the mean."""
    batch = eight()
    plain = replace(load("grpo"), constraint=(), credit=GroupStandardised(ddof=0))
    found = first_step(made(0.0, 0.0), {"policy": grid(0)}, batch, Grades(GRADES)).gradient
    alone = batch[torch.arange(6)]
    expected = first_step(plain, {"policy": grid(0)}, alone, Grades(GRADES)).gradient
    assert float(expected.abs().max()) > 1e-2
    close(found, expected)


def test_advantages_by_hand() -> None:
    """Own 1, 0, 0, 1: mean 1/2, deviation 1/2. Own all 0.5: the sign. A small spread is bounded."""
    batch = with_row(ragged((1,) * 10), group=[1] * 5 + [2] * 3 + [3] * 2, source=[0, 0, 0, 0, 3, 0, 0, 3, 0, 3])
    rewards = [1.0, 0.0, 0.0, 1.0, 2.0, 0.5, 0.5, 0.2, 0.3, 0.3]
    found = OnOwnScale(epsilon=0.0)(context(method(), grids()), rewarded(batch, rewards)).step["advantage"][:, 0]
    close(found, [1.0, -1.0, -1.0, 1.0, 3.0, 0.0, 0.0, -1.0, 0.0, 0.0])
    near = rewarded(batch[:5], [0.5, 0.51, 0.5, 0.51, 0.9])
    found = OnOwnScale(epsilon=0.0, bound=4.0)(context(method(), grids()), near).step["advantage"][:, 0]
    close(found[4], 4.0)
    close(found[:4], [-1.0, 1.0, -1.0, 1.0], 1e-9)


def test_a_group_without_own_rows_and_unscored_rows_have_no_advantage() -> None:
    batch = with_row(ragged((1, 1, 1, 1)), group=(1, 1, 2, 2), source=(GIVEN, GIVEN, 0, GIVEN), scored=(1, 1, 1, 0))
    found = OnOwnScale()(context(method(), grids()), rewarded(batch, [1.0, 0.0, 1.0, 9.0])).step["advantage"]
    close(found, torch.zeros(4, 1))


def test_the_reference_stands_in_the_group_and_is_read_by_its_own_policy() -> None:
    """Three own rows and one recorded per task, through the real loop; the run is finite though nobody sampled it."""
    recordings = torch.tensor([[2, 1, -1], [0, 1, 2]])
    world = SequenceWorld(2, 3, 3, lambda strings, task: (strings == 1).double().sum(1), end=2, recordings=recordings)
    grao = replace(load("grao"), selection=replace(load("grao").selection, count=2))
    grao = replace(grao, sampling=replace(grao.sampling, size=3))
    run = Run({"policy": Table(numbers(6, 3))}, world, generate)
    done = next(rounds(run, Program((Stage(grao, 1),))))
    rows = done.judged
    assert len(rows) == 8
    for group in rows.row["group"].unique():
        sources = rows.row["source"][rows.row["group"] == group].tolist()
        assert sorted(sources) == [0, 0, 0, GIVEN]
    given = rows[rows.row["source"] == GIVEN]
    assert given.step["behaviour"].isnan().any()
    order = given.row["task"].argsort()
    assert world.strings(given)[order].tolist() == [[2, -1, -1], [0, 1, 2]]
    assert all(torch.isfinite(torch.tensor(v)) for v in done.metrics.values())
