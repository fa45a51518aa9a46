"""Measures of reward models: `reduces_to` and `shows` of specification 2 (RewardMATH)."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policyopt.evaluation.reward_models import (
    best_of_n,
    best_of_n_exact,
    calibration_error,
    mean_reciprocal_rank,
    rank_accuracy,
    ranks,
    round_robin,
    validity,
)
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")


def test_ranks_by_hand_with_ties_against_the_reward_model() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.5, 0.5, 0.5]])
    assert ranks(scores).tolist() == [1, 2, 3, 3]
    assert rank_accuracy(scores) == 0.25
    close(mean_reciprocal_rank(scores), (1 + 1 / 2 + 1 / 3 + 1 / 3) / 4)
    with pytest.raises(ValueError, match="finite"):
        ranks(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="wrong solutions"):
        ranks(torch.ones(3, 1))


def test_of_one_wrong_solution_it_is_pairwise_accuracy() -> None:
    scores = numbers(200, 2, seed=1)
    close(rank_accuracy(scores), (scores[:, 0] > scores[:, 1]).double().mean())


@settings(max_examples=10)
@given(st.integers(1, 12))
def test_random_scores_have_the_known_expectations(wrong: int) -> None:
    scores = numbers(20000, wrong + 1, seed=wrong)
    harmonic = sum(1 / k for k in range(1, wrong + 2))
    assert abs(rank_accuracy(scores) - 1 / (wrong + 1)) < 0.012
    assert abs(mean_reciprocal_rank(scores) - harmonic / (wrong + 1)) < 0.01


def test_a_pairwise_judge_scores_by_wins() -> None:
    scores = numbers(5, 4, seed=2)
    wins = (scores[:, :, None] > scores[:, None, :]).double() + 7 * torch.eye(4)
    assert torch.equal(ranks(round_robin(wins)), ranks(scores))
    assert sorted(round_robin(wins)[0].tolist()) == [0.0, 1.0, 2.0, 3.0]


def test_best_of_n_by_hand() -> None:
    proxy = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 1.0, 5.0, 9.0]])
    gold = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
    one, two, four = best_of_n(proxy, gold, (1, 2, 4))
    assert (one.kl, one.proxy, one.gold, one.gap) == (0.0, 1.5, 1.0, 0.0)
    assert (two.proxy, two.gold) == (2.5, 0.5)
    assert (four.proxy, four.gold) == (6.0, 0.0)  # the first among equals
    close(two.kl, math.log(2) - 0.5)
    spread = float(proxy.std(correction=0))
    close(four.gap, 4.5 / spread + 1.0)
    with pytest.raises(ValueError, match=r"1\.\.4"):
        best_of_n(proxy, gold, (5,))


def test_the_exact_curve_is_the_mean_over_all_subsets() -> None:
    proxy, gold = numbers(3, 6, seed=4), numbers(3, 6, seed=5)
    for n in range(1, 7):
        expected = torch.zeros(2)
        subsets = list(itertools.combinations(range(6), n))
        for subset in subsets:
            index = torch.tensor(subset)
            chosen = proxy[:, index].argmax(1, keepdim=True)
            expected += torch.stack([x[:, index].gather(1, chosen).mean() for x in (proxy, gold)]) / len(subsets)
        close(torch.tensor(best_of_n_exact(proxy, gold, n)), expected)
    with pytest.raises(ValueError, match="n in"):
        best_of_n_exact(proxy, gold, 7)


def test_calibration_of_known_probabilities() -> None:
    share = torch.tensor([0.05, 0.05, 0.95, 0.95, 1.0])
    right = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
    close(calibration_error(share, right), (0.9 + 0.9) / 5)
    rng = torch.Generator().manual_seed(0)
    share = torch.rand(40000, generator=rng)
    right = (torch.rand(40000, generator=rng) < share).double()
    assert calibration_error(share, right) < 0.01
    assert calibration_error(share**3, right) > 0.1
    with pytest.raises(ValueError, match=r"0\.\.1"):
        calibration_error(share * 2, right)


def bank(seed: int, count: int = 12, problems: int = 400, wrong: int = 9, most: int = 64) -> tuple[list[float], ...]:
    """Accuracy on one-to-many sets, accuracy on pairs whose wrong side has the worse style, gold of best-of-64, of
    reward models a correctness + b style + noise."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    found: tuple[list[float], ...] = ([], [], [])
    for _ in range(count):
        a, b = 2 * torch.rand(1, generator=rng), 1.5 * normal(1)
        many = b * normal(problems, wrong + 1) + normal(problems, wrong + 1)
        many[:, 0] += a
        worse = normal(problems, 2).sort(1, descending=True).values
        pairs = b * worse + normal(problems, 2)
        pairs[:, 0] += a
        gold = (torch.rand(problems, most, generator=rng) < 0.3).double()
        proxy = a * gold + b * normal(problems, most) + normal(problems, most)
        true = best_of_n(proxy, gold, (most,))[0].gold
        for held, one in zip(found, (rank_accuracy(many), rank_accuracy(pairs), true), strict=True):
            held.append(one)
    return found


def test_one_to_many_accuracy_orders_reward_models_as_best_of_n_does_and_pairs_do_not() -> None:
    for seed in range(3):
        many, pairs, gold = bank(seed)
        assert validity(many, gold) > 0.9
        assert validity(pairs, gold) < 0.7
    assert math.isnan(validity([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="three reward models or more"):
        validity([1.0, 2.0], [0.0, 1.0])
