"""DPO and PPO from the same parts: the identities of specification 248."""

import pytest
import torch

from policyopt.evaluation.experiments.alignment import _share, recipe_of_preferences
from policyopt.evaluation.verify import build, claim_of
from policyopt.methods import load
from policyopt.methods.dpo_vs_ppo_recipe import study
from policyopt.reward.parts import ReferencePenalty
from policyopt.reward.reward_models import ModelReward
from references_reward_models import said, training
from support import context, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")
KEY = "dpo_vs_ppo_recipe"


def test_the_reward_is_the_models_less_the_distance_to_the_first_policy():
    """u_t = -kl (log pi - log pi_ref) + 1[t = T] r."""
    method, batch = load(KEY), ragged()
    parts = method.reward.parts
    assert [type(part) for part in parts] == [ModelReward, ReferencePenalty]
    batch = batch.with_steps({"reward": torch.zeros_like(batch.step["reward"])})
    ctx = context(training(batch), {**grids(), "reward": said(0.7, -0.4, -1.1, 0.3)})
    paid = parts[0](ctx, batch)
    assert paid.step["reward"].sum(1).tolist() == pytest.approx([0.7, -0.4, -1.1, 0.3])
    assert method.constraint == ()  # the distance is charged once


def test_shares_of_the_attainable_reward_are_those_of_hand():
    gold = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    assert _share(torch.full((2, 3), 1 / 3), gold) == pytest.approx(0.0, abs=1e-12)
    assert _share(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), gold) == pytest.approx(1.0)
    assert _share(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), gold) == pytest.approx((2.0 - 1.0) / (2.5 - 1.0))


def test_arms_have_equal_budgets_whatever_is_varied():
    rows = set()
    for arm in study.groups()["20% of labels wrong"]:
        outcome = recipe_of_preferences(build(arm, KEY), 1_000_000, 4, **arm.given)
        rows.add(outcome.rows)
        assert len(outcome.curve) == 4
    assert rows == {4 * 128}


def test_the_reward_model_comes_first_and_the_policy_waits_for_it():
    claim = claim_of(KEY)
    outcome = recipe_of_preferences(build(claim.treated, KEY), 1_000_001, 6, **claim.treated.given)
    assert outcome.curve[0] == outcome.curve[1] == outcome.curve[2] == pytest.approx(0.0, abs=1e-6)
    assert outcome.curve[-1] != 0
    assert claim.treated.given["flips"] == claim.baseline.given["flips"]
