"""RLOO: `reduces_to` of specification 121, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import (
    Grades,
    every_group,
    exact_policy_gradient,
    first_step,
    group_probability,
    row_logp,
    tiny_world,
    weighted,
)
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from support import close, grid, grids, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def plain_rloo():
    return replace(load("rloo"), reward=Verified())


def test_two_samples_are_each_others_baseline() -> None:
    """k = 2: A_1 = R_1 - R_2 = -A_2."""
    done = first_step(plain_rloo(), {"policy": grid(0)}, ragged(), Grades(GRADES))
    close(done.advantage, [1.5, -2.0, -1.5, 2.0])


def test_advantage_is_the_centred_one_times_k_over_k_minus_1() -> None:
    """And GRPO's up to that factor after division by the spread; it sums to 0 over the group."""
    lengths, grades = (1, 2, 7, 13, 3, 5, 2), [0.5, 2.0, -1.0, 4.0, 0.25, 2.5, 3.0]
    batch = with_row(ragged(lengths), group=[1, 2, 1, 2, 1, 2, 2])
    found = {
        key: first_step(made, {"policy": grid(0)}, batch, Grades(grades)).advantage
        for key, made in (("rloo", plain_rloo()), ("dr_grpo", load("dr_grpo")), ("grpo", load("grpo")))
    }
    for group, k in ((1, 3), (2, 4)):
        rows = batch.row["group"] == group
        rloo, centred, grpo = (found[key][rows] for key in ("rloo", "dr_grpo", "grpo"))
        close(rloo, k / (k - 1) * centred)
        deviation = torch.tensor(grades)[rows].std() + 1e-6
        close(rloo / deviation, k / (k - 1) * grpo)
        close(rloo.sum(), 0.0)
        assert float(rloo.abs().max()) > 0.5


def test_first_gradient_is_reinforce_on_the_row() -> None:
    """At ratio 1: -mean_i A_i sum_t grad log pi."""
    batch = ragged()
    done = first_step(plain_rloo(), {"policy": grid(0)}, batch, Grades(GRADES))
    close(done.gradient[:4, :13], torch.where(batch.trained, -done.advantage[:, None] / 4, 0.0))


def test_the_penalty_is_part_of_the_reward() -> None:
    """R' = R - beta sum_t (log pi_old - log pi_ref) over own steps, and credit is of R'."""
    models, batch = grids(), ragged()
    gap = (batch.step["behaviour"] - models["reference"].logp.detach()[:4, :13]) * batch.own
    shaped = torch.tensor(GRADES) - 0.03 * gap.sum(1)
    done = first_step(load("rloo"), models, batch, Grades(GRADES))
    close(total_reward(done.round.judged), shaped)
    a, b = shaped[0] - shaped[2], shaped[1] - shaped[3]
    close(done.advantage, torch.stack([a, b, -a, -b]))
    close(done.round.metrics["reference_kl"], gap.sum() / batch.own.sum())


@pytest.mark.parametrize("size", [2, 3])
def test_expected_gradient_is_the_exact_policy_gradient(size: int) -> None:
    """Unbiased for any k: the sum over every group of strings, with its probability."""
    check_unbiased(size)


def test_unbiased_pairs() -> None:
    check_unbiased(2)


def check_unbiased(size: int) -> None:
    world, policy = tiny_world(), Table(numbers(2, 3, seed=1))
    batch = every_group(world, size)
    chance, groups = group_probability(policy, batch), len(batch) / size
    close(chance.sum() / size, 1.0)
    made = weighted(plain_rloo(), lambda seen, part: groups * chance[part.row["_row"]])
    done = first_step(made, {"policy": policy}, batch, world)
    exact = exact_policy_gradient(Table(numbers(2, 3, seed=1)), world)
    assert float(exact.abs().max()) > 0.05
    close(done.gradient, -exact)


def test_expected_gradient_with_the_penalty_is_that_of_the_shaped_objective() -> None:
    """grad E[R - beta log(pi / ref)]: the penalty's own score term has mean zero."""
    world, policy = tiny_world(), Table(numbers(2, 3, seed=1))
    reference = Table(numbers(2, 3, seed=2))
    batch = every_group(world, 2)
    with torch.no_grad():
        behaviour = torch.where(batch.own, policy.score(batch).logp, 0.0)
    batch = batch.with_steps({"behaviour": behaviour})
    chance = group_probability(policy, batch)
    made = weighted(load("rloo"), lambda seen, part: len(batch) / 2 * chance[part.row["_row"]])
    done = first_step(made, {"policy": policy, "reference": reference}, batch, world)
    fresh, rows = Table(numbers(2, 3, seed=1)), every_group(world, 1)
    logp, other = row_logp(fresh, rows), row_logp(reference, rows).detach()
    objective = (logp.exp() * (world.grade(rows) - 0.03 * (logp - other))).sum()
    (exact,) = torch.autograd.grad(objective, fresh.logits)
    close(done.gradient, -exact)


def test_a_group_of_one_teaches_nothing() -> None:
    batch = with_row(ragged(), group=[1, 2, 3, 4])
    done = first_step(plain_rloo(), {"policy": grid(0)}, batch, Grades(GRADES))
    close(done.gradient, torch.zeros_like(done.gradient), atol=0.0)
