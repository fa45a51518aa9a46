"""EIS-GRPO: `reduces_to` of specification 106, each identity a test."""

from dataclasses import replace

import pytest
import torch

from asked import asking, sampled
from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.evaluation.experiments.judged import BothOrders, LogisticJudge
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.sampling.forms import EquivalentForms
from policyopt.sampling.samplers import Group
from policyopt.types import Tasks
from support import close, grids, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def orders(pairs=3):
    """Comparison k is won by its first answer; so task 2 k + 1 is won by the second."""
    return BothOrders(2 * pairs, 2, 1, lambda s, t: (s[:, 0] == t % 2).double())


class OneForm(BothOrders):
    def forms(self, tasks):
        return tasks[:, None]


def test_of_one_form_it_is_grpo() -> None:
    world, policy = OneForm(6, 2, 1, orders().reward), Table(numbers(6, 2))
    found, expected = (sampled(asking(part, world, policy)) for part in (EquivalentForms(4), Group(4)))
    for name in ("task", "group"):
        assert torch.equal(found.row[name], expected.row[name])
    for name in ("_step", "behaviour", "reward"):
        assert torch.equal(found.step[name], expected.step[name])
    assert load("eis_grpo").objective == load("grpo").objective
    assert load("eis_grpo").credit == load("grpo").credit


def test_all_forms_are_in_the_group_of_the_draw() -> None:
    rows = sampled(asking(EquivalentForms(3), orders(), Table(numbers(6, 2)), count=4))
    assert len(rows) == 4 * 2 * 3
    for group in rows.row["group"].unique():
        tasks = rows.row["task"][rows.row["group"] == group]
        assert sorted(tasks.tolist()) == sorted([int(tasks[0]) // 2 * 2] * 3 + [int(tasks[0]) // 2 * 2 + 1] * 3)
    close(rows.step["reward"][:, 0], (rows.step["_step"][:, 0] == rows.row["task"] % 2).double())


def test_a_judge_by_position_learns_from_both_orders_only() -> None:
    """It always says the first: right in one order, wrong in the other."""
    sure = Table(torch.tensor([50.0, -50.0]).expand(6, 2))
    credit = load("eis_grpo").credit
    for part, moved in ((EquivalentForms(4), True), (Group(4), False)):
        ctx = asking(part, orders(), sure)
        advantage = credit(ctx, sampled(ctx)).step["advantage"]
        assert bool((advantage != 0).all()) == moved
        assert bool((advantage != 0).any()) == moved


def test_pooled_advantages_by_hand() -> None:
    """Both orders of four rows: mean over all eight, deviation with 7, the sign of each from its own truth."""
    ctx = asking(EquivalentForms(4), orders(1), Table(torch.tensor([[2.0, 0.0], [2.0, 0.0]])), count=1)
    rows = load("eis_grpo").credit(ctx, sampled(ctx))
    reward = rows.step["reward"][:, 0]
    mean = reward.mean()
    deviation = ((reward - mean).pow(2).sum() / 7).sqrt()
    assert 0 < float(mean) < 1
    close(rows.step["advantage"][:, 0], (reward - mean) / (deviation + 1e-6))


def test_gradient_is_invariant_to_the_order_of_forms_and_equal_groups_give_none() -> None:
    batch, models = ragged(), grids()
    batch = with_row(batch, group=(5, 5, 5, 5))
    rewards = [1.0, 0.0, 0.0, 1.0]
    found = first_step(load("eis_grpo"), models, batch, Grades(rewards)).gradient
    turned = first_step(load("eis_grpo"), grids(), batch[torch.tensor([2, 0, 3, 1])], Grades(rewards)).gradient
    close(found, turned)
    same = replace(load("eis_grpo"), constraint=())
    assert float(first_step(same, grids(), batch, Grades([1.0] * 4)).gradient.abs().max()) == 0.0


def test_the_logistic_judge_scores_what_it_says() -> None:
    judge = LogisticJudge(torch.tensor([0.3, -0.3]), 1.0)
    rows = orders(1).complete(Tasks(torch.tensor([0, 1])), torch.tensor([[0], [1]]))
    first = torch.sigmoid(torch.tensor([1.0, 1.0]))
    close(judge.score(rows).logp[:, 0].exp(), torch.stack([first[0], 1 - first[1]]))


def test_worlds_without_forms_are_refused() -> None:
    ctx = asking(EquivalentForms(2), reward=Verified())
    with pytest.raises(CompositionError, match="forms"):
        sampled(ctx)
    with pytest.raises(CompositionError, match="size"):
        EquivalentForms(0)
