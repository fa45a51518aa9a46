"""P3O: `reduces_to` of specification 78, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, every_group, exact_policy_gradient, first_step, group_probability, tiny_world
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.objective.implicit import JointPairSurrogate
from policyopt.objective.surrogates import ProductSequenceSurrogate
from policyopt.ops.comparisons import pairs_within
from policyopt.policies.tabular import Table
from support import close, context, full_step, grid, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

REWARDS = [0.5, 2.0, -1.0, 4.0]
PAIRS = ((0, 2), (1, 3))


def stepped(batch, models=None, clip=0.2):
    (term,) = load("p3o_pairwise").objective
    return full_step(context(method(replace(term, loss=JointPairSurrogate(clip))), models or grids()), batch)


def weights(batch, models):
    gap = models["policy"].logp[: len(batch), : batch.steps] - models["old"].logp[: len(batch), : batch.steps]
    return torch.where(batch.trained, gap, 0.0).sum(1).detach().exp()


@pytest.mark.parametrize("key", ["p3o_pairwise", "p3o_pairwise:p3o_separate"])
def test_on_policy_it_is_rloo_of_two(key: str) -> None:
    """(rr_1 - rr_2) (grad log pi(y_1) - grad log pi(y_2)) / 2, mean over pairs; also with the KL in the reward."""
    rloo, models = load("rloo"), {"policy": grid(0)}
    found = first_step(load(key), models, ragged(), Grades(REWARDS)).gradient
    expected = first_step(rloo, {"policy": grid(0)}, ragged(), Grades(REWARDS)).gradient
    assert float(expected.abs().max()) > 0.1
    close(found, expected)


def test_without_a_clip_the_joint_form_has_the_stated_gradient() -> None:
    """E[D w_1 w_2 grad(log pi(y_1) - log pi(y_2)) / 2], for any policy."""
    batch, models = rewarded(ragged(), REWARDS), grids()
    w = weights(batch, models)
    expected = torch.zeros(4)
    for i, j in PAIRS:
        moves = -(REWARDS[i] - REWARDS[j]) * w[i] * w[j] / 2
        expected[i], expected[j] = moves / 2, -moves / 2
    close(stepped(batch, models, math.inf)[1][:4, :13], torch.where(batch.trained, expected[:, None], 0.0))


def test_without_a_clip_both_forms_are_the_policy_gradient_in_expectation() -> None:
    """Over every pair of strings, off policy, by enumeration."""
    world = tiny_world()
    policy, old = Table(numbers(2, 3, seed=5)), Table(numbers(2, 3, seed=6))
    batch = every_group(world, 2)
    batch = batch.with_steps({"reward": torch.where(batch.own, 0.0, 0.0)})
    last = batch.own & (batch.own.flip(1).cumsum(1).flip(1) == 1)
    batch = batch.with_steps({"reward": torch.where(last, world.grade(batch)[:, None], 0.0)})
    chance = group_probability(old, batch)
    joint = replace(load("p3o_pairwise").objective[0], loss=JointPairSurrogate(math.inf))
    separate = replace(load("rloo").objective[0], loss=ProductSequenceSurrogate(1.0, math.inf))
    credited = load("rloo").credit(context(method(), grids()), batch)
    for term, rows in ((joint, batch), (separate, credited)):
        # A mean over two rows of each of the groups, so the weight of a row is its group's chance times their number.
        term = replace(term, weight=lambda seen, part: chance * len(batch) / 2)
        _, gradient = full_step(context(method(term), {"policy": policy, "old": old}), rows)
        close(gradient, -exact_policy_gradient(policy, world), 1e-10)


def test_a_constant_of_the_task_changes_nothing() -> None:
    models = grids()
    plain, shifted = stepped(rewarded(ragged(), REWARDS), models), rewarded(ragged(), [10.5, -3.0, 9.0, -1.0])
    found = stepped(shifted, models)
    close(found[0], plain[0])
    close(found[1], plain[1])


@pytest.mark.parametrize(("apart", "moves"), [(0.1, True), (0.3, False), (-0.3, True)])
def test_a_pair_that_is_far_enough_apart_is_left(apart: float, moves: bool) -> None:
    """Clip 0.2 of the log-ratio of the pair, the better row ahead by `apart`; never clipped when it is behind."""
    batch = rewarded(ragged((1, 1)).with_rows({"group": torch.zeros(2, dtype=torch.int64)}), [1.0, 0.0])
    models = grids()
    with torch.no_grad():
        models["old"].logp.copy_(models["policy"].logp)
        models["old"].logp[0, 0] -= apart
    value, gradient = stepped(batch, models)
    close(value, -math.exp(apart) * min(apart, 0.2 if apart > -0.2 else apart) / 2)
    assert (float(gradient.abs().max()) > 0) == moves


def test_larger_groups_compare_every_pair_and_single_rows_are_left_out() -> None:
    batch = with_row(ragged((1, 2, 7, 13)), group=(1, 1, 1, 2))
    batch, models = rewarded(batch, [1.0, 0.0, 3.0, 9.0]), grids()
    w = weights(batch, models)
    log, rewards, total = w.log(), [1.0, 0.0, 3.0], 0.0
    for i in range(3):
        for j in range(i):
            apart, better = float(log[i] - log[j]), rewards[i] - rewards[j]
            total -= float(w[i] * w[j]) * min(apart * better, min(max(apart, -0.2), 0.2) * better) / 2
    close(stepped(batch, models)[0], total / 3)
    with pytest.raises(CompositionError, match="clip must be above 0"):
        JointPairSurrogate(0.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=0, max_size=9))
def test_pairs_within_groups_are_those_of_two_loops(rows) -> None:
    ids = torch.tensor([7 - 2 * g for g, _, _ in rows], dtype=torch.int64)
    first, second = (torch.tensor([row[side] for row in rows], dtype=torch.bool) for side in (1, 2))
    expected = [
        [i, j]
        for i in range(len(rows))
        for j in range(len(rows))
        if i != j and rows[i][0] == rows[j][0] and rows[i][1] and rows[j][2]
    ]
    assert pairs_within(ids, first, second).tolist() == expected
