"""StepGRPO of R1-VL: `reduces_to` of specification 115."""

from dataclasses import replace

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.compose import Chain
from policyopt.evaluation.experiments.graded import _all_kinds
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.reward.checks import Checked
from policyopt.reward.heads import HeadSum
from said import Said
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

GROUPS = [7, 3, 7, 3]
RIGHT, VALID = [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]
STEPS = [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def stepped(made, steps=STEPS):
    old = grids()["old"].logp.detach()[:4, :13]
    said = Said(heads={"accuracy": RIGHT, "validity": VALID}, checks=steps, grade=RIGHT)
    return first_step(made, grids(), ragged(), said, old=old)


def test_rewards_and_advantages_by_hand() -> None:
    done = stepped(load("stepgrpo_r1vl"))
    expected = [a + v + 0.1 * sum(c) / 3 for a, v, c in zip(RIGHT, VALID, STEPS, strict=True)]
    close(total_reward(done.round.judged), expected)
    close(done.advantage, loops.standardised(expected, GROUPS, [True] * 4))


def test_without_the_step_rewards_it_is_grpo() -> None:
    bare = replace(load("stepgrpo_r1vl"), reward=Chain((HeadSum({"accuracy": 1.0}), Checked(0.0))))
    found = stepped(bare)
    close(found.gradient, stepped(load("grpo")).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_the_order_of_key_steps_does_not_matter() -> None:
    turned = [[c[j] for j in (2, 0, 1)] for c in STEPS]
    close(stepped(load("stepgrpo_r1vl")).gradient, stepped(load("stepgrpo_r1vl"), turned).gradient)


def test_groups_of_wrong_answers_learn_from_key_steps() -> None:
    alone = override(load("stepgrpo_r1vl"), {"reward.weights.validity": 0.0})
    done = stepped(alone)
    close(done.advantage[[0, 2]], loops.standardised([0.2 / 3, 0.1 / 3], [0, 0], [True] * 2))
    assert float(stepped(load("grpo")).advantage[0]) == 0.0


def test_a_row_that_one_grader_failed_on_is_unscored() -> None:
    said = Said(heads={"accuracy": RIGHT, "validity": [1.0, float("nan"), 0.0, 1.0]}, checks=STEPS)
    done = first_step(load("stepgrpo_r1vl"), grids(), ragged(), said)
    assert done.round.judged.row["scored"].tolist() == [True, False, True, True]
    assert float(done.advantage[3]) == 0.0


def test_probability_of_all_kinds_equals_the_sum_over_strings() -> None:
    kinds = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    total = torch.zeros(2)
    for string in torch.cartesian_prod(*[torch.arange(4)] * 4):
        if set(string.tolist()) >= {0, 1, 2}:
            total += torch.stack([kinds[:, place, kind] for place, kind in enumerate(string.tolist())]).prod(0)
    close(_all_kinds(kinds), total)
