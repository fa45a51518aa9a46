"""Fuzzy group relative policy reward: `reduces_to` of specification 130."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loops
from enumeration import first_step
from policyopt.compose import Chain
from policyopt.methods import load
from policyopt.ops.metrics import relative_error
from policyopt.ops.sequences import total_reward
from policyopt.reward.heads import FuzzyError, HeadSum, fuzzy
from said import Said
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

GROUPS = [7, 3, 7, 3]
SAID = torch.tensor([90.0, 0.0, 40.0, float("nan")], dtype=torch.float64)
WANTED = torch.tensor([100.0, 0.0, 100.0, 50.0], dtype=torch.float64)
FORMAT = [1.0, 1.0, 0.0, 0.0]


def stepped(made, said=SAID, wanted=WANTED):
    old = grids()["old"].logp.detach()[:4, :13]
    world = Said(heads={"error": relative_error(said, wanted), "format": FORMAT}, grade=(said == wanted).double())
    return first_step(made, grids(), ragged(), world, old=old)


def test_rewards_and_advantages_by_hand() -> None:
    """An error of 0.1; nothing where nothing is; an error of 0.6; no number."""
    done = stepped(load("fgrpr_crowdvlm"))
    expected = [1.4 + 1.0, 1.5 + 1.0, 0.0, 0.0]
    close(total_reward(done.round.judged), expected)
    close(done.advantage, loops.standardised(expected, GROUPS, [True] * 4))


def test_with_an_exact_match_in_its_place_it_is_grpo_with_accuracy() -> None:
    """Where every error is 0 or beyond the limit, the reward is 1.5 for the exact number, which is GRPO's 0 or 1."""
    said = torch.tensor([100.0, 0.0, 20.0, 7.0])
    bare = replace(load("fgrpr_crowdvlm"), reward=Chain((HeadSum({"error": 0.0}), FuzzyError("error", 0.5, 1.0))))
    found = stepped(bare, said)
    close(found.gradient, stepped(load("grpo"), said).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


@given(st.floats(0.1, 1000), st.floats(0.0, 2.0), st.floats(0.1, 100))
def test_the_reward_depends_on_the_ratio_alone(wanted, ratio, scale) -> None:
    one, other = (relative_error(torch.tensor([s * ratio * wanted]), torch.tensor([s * wanted])) for s in (1.0, scale))
    close(one, other, 1e-12)
    if abs(float(one) - 0.5) > 1e-9:
        close(fuzzy(one, 0.5, 1.5), fuzzy(other, 0.5, 1.5), 1e-12)


def test_the_reward_is_zero_or_above_one() -> None:
    worth = fuzzy(torch.linspace(0, 2, 401), 0.5, 1.5)
    assert bool(((worth == 0) | (worth > 1.0)).all())
    assert float(worth.max()) == 1.5


def test_zero_and_unreadable_numbers() -> None:
    found = relative_error(torch.tensor([0.0, 1.0, float("nan"), -50.0]), torch.tensor([0.0, 0.0, 10.0, 100.0]))
    close(found, [0.0, 1e6, 1e6, 1.5])


def test_larger_counts_are_judged_more_finely() -> None:
    """One off is 5 % of twenty and 0.5 % of two hundred."""
    close(fuzzy(relative_error(torch.tensor([19.0, 199.0]), torch.tensor([20.0, 200.0])), 0.5, 1.5), [1.45, 1.495])
