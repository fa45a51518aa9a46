"""On-policy distillation: `reduces_to` of specification opd_survey, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import every_group, first_step, row_logp, tiny_world, weighted
from policyopt.compose import Role
from policyopt.constraint.divergence import ExactKL
from policyopt.methods import load
from policyopt.objective.supervised import GeneralisedJensenShannon
from policyopt.policies.tabular import Table
from policyopt.types import Categorical
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")


def with_loss(loss):
    made = load("opd")
    (term,) = made.objective
    return replace(made, objective=(replace(term, loss=loss),))


def enumerated(made, world: SequenceWorld, policy: Table, teacher: Table) -> torch.Tensor:
    """Expected first gradient over every string the student may write."""
    batch = every_group(world, 1)
    chance = row_logp(policy, batch).detach().exp()
    made = weighted(made, lambda seen, part: len(chance) * chance[part.row["_row"]][:, None])
    done = first_step(made, {"policy": policy, "teacher": teacher}, batch, world)
    return done.gradient


def test_expected_sampled_gradient_is_that_of_the_reverse_kl() -> None:
    """At every visited state, hence along strings of any length: opd_sampled = opd in expectation, and both equal
    the sum over states of visits times grad KL, with rows averaged over their own length."""
    world = tiny_world()
    start, other = numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    full = enumerated(load("opd"), world, Table(start), Table(other))
    even = SequenceWorld(1, 3, 2, world.reward)  # strings of one length: the average is free of what was sampled
    same = [enumerated(load(key), even, Table(start), Table(other)) for key in ("opd", "opd:opd_sampled")]
    assert float(same[0].abs().max()) > 0.02
    close(same[1], same[0], what="sampled against full")
    table = start.clone().requires_grad_()
    student, teacher = Categorical.of(table), Categorical.of(other)
    by_state = student.kl(teacher)
    (slope,) = torch.autograd.grad((by_state * torch.tensor([0.5, 0.5])).sum(), table)
    close(same[0], slope, what="by hand, two steps each")
    # With an end symbol: the first state counts fully in rows of one step and half in rows of two.
    ends = start.softmax(-1)[0, 0]
    weights = torch.stack([ends + (1 - ends) / 2, (1 - ends) / 2])
    (slope,) = torch.autograd.grad((Categorical.of(table).kl(teacher) * weights).sum(), table)
    close(full, slope, what="by hand, uneven lengths")


def test_limits_of_the_jensen_shannon_divergence() -> None:
    """JSD_b / b -> forward KL as b -> 0 and JSD_b / (1 - b) -> reverse KL as b -> 1, in gradient."""
    world, start, other = tiny_world(), numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    reverse = enumerated(load("opd"), world, Table(start), Table(other))
    forward = enumerated(with_loss(ExactKL("teacher", "policy")), world, Table(start), Table(other))
    assert float((forward - reverse).abs().max()) > 1e-2
    for beta, scale, limit in ((1e-6, 1e-6, forward), (1 - 1e-6, 1e-6, reverse)):
        made = with_loss(GeneralisedJensenShannon(beta))
        close(enumerated(made, world, Table(start), Table(other)) / scale, limit, atol=1e-5)


def test_forward_kl_on_recorded_rows_is_supervised_distillation() -> None:
    """l = 0: the gradient of the teacher's cross-entropy, p_S - p_T at every state of the data."""
    world, start, other = tiny_world(), numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    batch = every_group(world, 1)
    done = first_step(with_loss(ExactKL("teacher", "policy")), {"policy": Table(start), "teacher": Table(other)}, batch)
    difference = start.softmax(-1) - other.softmax(-1)
    # Seven strings: 0 has one step; the six others have two.
    visits = torch.tensor([1 + 6 / 2, 6 / 2]) / 7
    close(done.gradient, visits[:, None] * difference)


def test_nothing_to_learn_from_oneself() -> None:
    world, start = tiny_world(), numbers(2, 3, seed=1)
    for key in ("opd", "opd:opd_sampled"):
        found = enumerated(load(key), world, Table(start), Table(start))
        close(found, torch.zeros(2, 3), what=key)


def test_the_teacher_is_asked_for_its_whole_distribution_only_where_needed() -> None:
    assert load("opd").roles["teacher"] == Role("teacher", when="collected", full=True)
    assert not load("opd:opd_sampled").roles["teacher"].full
