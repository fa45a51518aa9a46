"""Spectral policy optimization: `reduces_to` of specification 63."""

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from said import Said
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

GROUPS = [7, 3, 7, 3]
JUDGED = torch.ones(4, 13)
JUDGED[1, 1] = 0.0  # row 1: one of two steps
JUDGED[3, [2, 6]] = 0.0  # row 3: two right steps of ten of its own, then a wrong one


def stepped(made, grades, said=JUDGED):
    old = grids()["old"].logp.detach()[:4, :13]
    return first_step(made, grids(), ragged(), Said(grade=grades, judge_steps=said), old=old)


def test_groups_with_a_right_row_are_grpos() -> None:
    grades = [1.0, 0.0, 0.0, 1.0]
    found = stepped(load("spectral_po"), grades)
    close(found.gradient, stepped(load("grpo"), grades).gradient)
    assert float(found.gradient.abs().max()) > 1e-2
    assert found.round.metrics["none_right"] == 0.0


def test_where_the_judge_says_the_same_of_a_group_it_is_grpo() -> None:
    grades = [0.0, 0.0, 0.0, 1.0]
    found = stepped(load("spectral_po"), grades, torch.ones(4, 13))
    close(found.gradient, stepped(load("grpo"), grades).gradient)


def test_all_wrong_groups_learn_from_right_first_steps() -> None:
    done = stepped(load("spectral_po"), [0.0, 0.0, 1.0, 0.0])
    own = int(ragged().lengths[3])
    close(total_reward(done.round.judged), [0.0, 0.5, 1.0, 2 / own])
    close(done.advantage, loops.standardised([0.0, 0.5, 1.0, 2 / own], GROUPS, [True] * 4))
    assert float(done.gradient[3].abs().max()) > 1e-2
    assert float(stepped(load("grpo"), [0.0, 0.0, 1.0, 0.0]).advantage[1]) == 0.0
    close(done.round.metrics["none_right"], 0.5)


def test_the_scale_cancels_up_to_the_floor_of_the_division() -> None:
    grades = [0.0] * 4
    half = override(load("spectral_po"), {"reward.scale": 0.5})
    one, other = stepped(load("spectral_po"), grades), stepped(half, grades)
    close(one.advantage, other.advantage, 1e-5)
    close(total_reward(other.round.judged), 0.5 * total_reward(one.round.judged))


def test_a_wrong_answer_without_a_wrong_step_gets_the_whole_scale() -> None:
    done = stepped(load("spectral_po"), [0.0] * 4, torch.ones(4, 13))
    close(total_reward(done.round.judged), [1.0] * 4)
    close(done.advantage, [0.0] * 4)


def test_a_world_without_a_judge_is_refused() -> None:
    with pytest.raises(CompositionError, match="judge_steps"):
        first_step(load("spectral_po"), grids(), ragged(), Said(grade=[0.0] * 4))
