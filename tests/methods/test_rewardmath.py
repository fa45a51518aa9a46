"""A benchmark of reward models: the identities of specification 2."""

import pytest
import torch

from policyopt.evaluation.experiments.alignment import benchmark_validity
from policyopt.evaluation.reward_models import mean_reciprocal_rank, rank_accuracy, ranks
from policyopt.evaluation.verify import build, claim_of
from policyopt.methods import load
from policyopt.reward.reward_models import ModelReward

KEY = "rewardmath"


def test_random_scores_have_the_accuracy_and_rank_of_chance():
    """Acc = 1 / (K + 1) and MRR = H_{K+1} / (K + 1)."""
    scores = torch.rand(200_000, 10, generator=torch.Generator().manual_seed(0))
    assert rank_accuracy(scores) == pytest.approx(0.1, abs=0.003)
    assert mean_reciprocal_rank(scores) == pytest.approx(sum(1 / n for n in range(1, 11)) / 10, abs=0.003)


def test_with_one_wrong_solution_it_is_pairwise_accuracy_with_ties_as_errors():
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [2.0, 1.0]])
    assert ranks(scores).tolist() == [1, 2, 2, 1]
    assert rank_accuracy(scores) == 0.5


def test_reward_models_are_optimised_against_by_best_of_n():
    method = load(KEY)
    assert method.sampling.size == 64
    assert isinstance(method.reward, ModelReward)
    assert "reward" in method.models


def test_arms_face_the_same_reward_models_and_candidates():
    claim = claim_of(KEY)
    found = [benchmark_validity(build(arm, KEY), 1_000_002, 1, **arm.given) for arm in (claim.treated, claim.baseline)]
    assert found[0].rows == found[1].rows
    assert all(-1 <= outcome.value <= 1 for outcome in found)
    assert found[0].notes["mean accuracy of the reward models"] < found[1].notes["mean accuracy of the reward models"]
    again = benchmark_validity(build(claim.treated, KEY), 1_000_002, 1, **claim.treated.given)
    assert again.value == found[0].value
